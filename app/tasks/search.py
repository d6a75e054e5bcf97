"""Full-text search: what people type, and what PostgreSQL is asked.

The words of a task are in a stored `tsvector`, made by the database's function `search_words`; each
term of a query goes through the same function as a bound parameter, so that nothing a user types is
ever taken for the syntax of a query.
"""

import re
import unicodedata
from dataclasses import dataclass

from pydantic_core import PydanticCustomError
from sqlalchemy import ColumnElement, Text, and_, cast, func, literal_column
from sqlalchemy.dialects.postgresql import TSQUERY

from app.tasks.models import Task

SEARCH_MAX_LENGTH = 500
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


def _phrase(term: str) -> ColumnElement[str]:
    return func.phraseto_tsquery(literal_column("'simple'::regconfig"), func.search_words(term))


def _phrase_prefix(term: str) -> ColumnElement[str]:
    # The text of a tsquery has each word in quotes; what is empty becomes null and finds nothing.
    return cast(func.nullif(cast(_phrase(term), Text), "") + ":*", TSQUERY)


def finds(search: Search) -> ColumnElement[bool]:
    """The tasks that the search finds.

    Each term is a condition of its own: one in which PostgreSQL sees no word finds nothing, where
    in a query of all terms it would be left out.
    """
    queries = [_phrase(term) for term in search.required]
    if search.prefix is not None:
        queries.append(_phrase_prefix(search.prefix))
    conditions = [Task.search.bool_op("@@")(query) for query in queries]
    without = [~Task.search.bool_op("@@")(_phrase(term)) for term in search.excluded]
    return and_(*conditions, *without)
