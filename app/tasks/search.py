"""Full-text search: what people type, and what PostgreSQL is asked.

The words of a task are in a stored `tsvector`, made by the database's function `search_words`; each
term of a query goes through the same function as a bound parameter, so that nothing a user types is
ever taken for the syntax of a query.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

from pydantic_core import PydanticCustomError
from sqlalchemy import (
    ColumnElement,
    Text,
    and_,
    case,
    cast,
    func,
    literal_column,
    null,
    type_coerce,
)
from sqlalchemy.dialects.postgresql import TSQUERY

from app.tasks.models import Task

SEARCH_MAX_LENGTH = 500
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


def finds(
    *,
    required: Sequence[Term],
    excluded: Sequence[Term],
    prefix: Term | None,
    owner_id: ColumnElement[int],
) -> ColumnElement[bool]:
    """The tasks that a search finds, among those of an owner.

    Each term is a condition of its own: one in which PostgreSQL sees no word finds nothing, where
    in a query of all terms it would be left out.
    """
    words = [_phrase(term) for term in required]
    conditions = [_holds(query) for query in words]
    if prefix is not None:
        start = _phrase_prefix(prefix)
        others = reduce(lambda one, other: one.op("&&")(other), words) if words else null()
        is_common = func.is_common(start, owner_id, cast(others, TSQUERY))
        # The index is not used for what IS TRUE. See the migration that made `is_common`.
        conditions.append(case((is_common, _holds(start).is_(True)), else_=_holds(start)))
    without = [~_holds(_phrase(term)) for term in excluded]
    return and_(*conditions, *without)


def _holds(query: ColumnElement[str]) -> ColumnElement[bool]:
    return Task.search.bool_op("@@")(query)
