"""Full-text search: what people type, and what PostgreSQL is asked.

The words of a task are in a stored `tsvector`, made by the database's function `search_words`; each
term of a query goes through the same function as a bound parameter, so that nothing a user types is
ever taken for the syntax of a query.
"""

import re
import unicodedata
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import chain, islice
from typing import Any

from pydantic_core import PydanticCustomError
from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Text,
    all_,
    and_,
    any_,
    case,
    cast,
    func,
    literal_column,
    null,
    select,
    type_coerce,
)
from sqlalchemy.dialects.postgresql import TSQUERY

from app.tasks.models import Task

SEARCH_MAX_LENGTH = 500
# As many words that must be there, and as many that must not, have a condition each; further ones
# share one. Hundreds of conditions take long to compile, and for each number of them another
# statement is kept.
WORDS_APART = 10
Term = str | ColumnElement[str]
_TERM = re.compile(r'(-?)(?:"([^"]*)"?|([^\s"]+))')


@dataclass(frozen=True, slots=True)
class Search:
    """What a task must hold and must not hold; the `prefix` is how one of its words begins."""

    required: tuple[str, ...]
    excluded: tuple[str, ...]
    prefix: str | None


def _has_a_word(term: str) -> bool:
    return any(character.isalnum() for character in unicodedata.normalize("NFKC", term))


def parse_search(text: str) -> Search:
    """Words, `"quoted phrases"` and `-without`; the last bare word may be the start of one.

    Terms without a letter or digit say nothing and are left out. Raises `PydanticCustomError` if
    nothing is left that a task must hold.
    """
    required: list[str] = []
    excluded: list[str] = []
    prefix: int | None = None
    for minus, phrase, word in _TERM.findall(text):
        term = phrase or word
        if not _has_a_word(term):
            continue
        if minus:
            excluded.append(term)
        else:
            if word:
                prefix = len(required)
            required.append(term)
    if not required:
        raise PydanticCustomError("search_invalid", "Input should hold a word to find")
    last = required.pop(prefix) if prefix is not None else None
    return Search(tuple(dict.fromkeys(required)), tuple(dict.fromkeys(excluded)), last)


def _phrase(term: Term) -> ColumnElement[str]:
    words = func.search_words(type_coerce(term, Text))
    return func.phraseto_tsquery(literal_column("'simple'::regconfig"), words)


def _phrase_prefix(term: Term) -> ColumnElement[str]:
    # The text of a tsquery has each word in quotes; what is empty becomes null and finds nothing.
    return cast(func.nullif(cast(_phrase(term), Text), "") + ":*", TSQUERY)


def _phrases(terms: Any) -> ColumnElement[Any]:  # noqa: ANN401 - a list, or a parameter
    term = func.unnest(type_coerce(terms, ARRAY(Text))).column_valued("term")
    return func.array(select(_phrase(term)).scalar_subquery(), type_=ARRAY(TSQUERY))


def _parts(search: Search) -> Iterator[Sequence[Any]]:
    yield search.required[:WORDS_APART]
    yield search.excluded[:WORDS_APART]
    yield () if search.prefix is None else (search.prefix,)
    for further in (search.required[WORDS_APART:], search.excluded[WORDS_APART:]):
        yield (list(further),) if further else ()


def parameters_of(search: Search) -> tuple[Hashable, tuple[Any, ...]]:
    """What `finds` takes: how many values there are of each kind, and the values."""
    parts = list(_parts(search))
    return tuple(map(len, parts)), tuple(chain.from_iterable(parts))


def finds(form: Any, values: Sequence[Any], owner_id: ColumnElement[int]) -> ColumnElement[bool]:  # noqa: ANN401 - of `parameters_of`
    """The tasks that a search finds, among those of an owner.

    Takes what `parameters_of` gave, or parameters in the place of the values. Each term is a query
    of its own: one in which PostgreSQL sees no word finds nothing, where in a query of all terms it
    would be left out.
    """
    left = iter(values)
    required, excluded, prefix, further, further_excluded = (
        list(islice(left, number)) for number in form
    )
    words = [_phrase(term) for term in required]
    conditions = [_holds(query) for query in words]
    if prefix:
        start = _phrase_prefix(prefix[0])
        others = reduce(lambda one, other: one.op("&&")(other), words) if words else null()
        is_common = func.is_common(start, owner_id, cast(others, TSQUERY))
        # The index is not used for what IS TRUE. See the migration that made `is_common`.
        conditions.append(case((is_common, _holds(start).is_(True)), else_=_holds(start)))
    without = [~_holds(_phrase(term)) for term in excluded]
    without += [~_holds(any_(_phrases(terms))) for terms in further_excluded]
    conditions += [_holds(all_(_phrases(terms))) for terms in further]
    return and_(*conditions, *without)


def _holds(query: ColumnElement[Any]) -> ColumnElement[bool]:
    return Task.search.bool_op("@@")(query)
