"""The bases of what clients send."""

import re
import unicodedata
from collections.abc import Hashable
from datetime import UTC, date, datetime
from typing import Annotated, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, WithJsonSchema
from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

from app.core.bounds import MAXIMUM_ID
from app.core.errors import APIError

Item = TypeVar("Item", bound=Hashable)

NULL = "\0null"
"""Stands for null in an example: FastAPI leaves out of the document what is None."""


class InputModel(BaseModel):
    """A body or a query: unknown fields are refused by name, and no input stands in an error."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


# The categories of Unicode that show nothing: control, format, and the separators.
_INVISIBLE = frozenset({"Cc", "Cf", "Zs", "Zl", "Zp"})


def field_refused(
    model: type[BaseModel], name: str, message: str, *, kind: str = "invalid"
) -> ValidationError:
    """What a validator of the whole model raises to blame one of its fields, and not the model."""
    fault = InitErrorDetails(type=PydanticCustomError(kind, message), loc=(name,), input=None)
    return ValidationError.from_exception_data(model.__name__, [fault], hide_input=True)


def canonical_id(value: object, *, otherwise: type[APIError]) -> int:
    """An id in a path as the integer it is. Raises `otherwise`, a 404, for whatever is no id."""
    text = str(value)
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(MAXIMUM_ID))):
        raise otherwise
    number = int(text)
    if str(number) != text or not 1 <= number <= MAXIMUM_ID:
        raise otherwise
    return number


def not_blank(value: str) -> str:
    """`value`, unless it holds nothing that can be seen; spaces were trimmed before."""
    # Nearly all begin with what can be seen.
    if not value[:1].isalnum() and all(
        unicodedata.category(character) in _INVISIBLE for character in value
    ):
        raise PydanticCustomError("string_too_short", "Input should not be blank")
    return value


def each_once(values: list[Item]) -> list[Item]:
    """`values`, unless one of them is there twice."""
    if len(set(values)) < len(values):
        raise PydanticCustomError("duplicate", "Input should hold each item once")
    return values


# RFC 3339, section 5.6. Pydantic would also take numbers, naive instants and other spellings.
_INSTANT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T([01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?"
    r"(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
)
_LOST_PLUS = re.compile(r" [0-9]{2}:[0-9]{2}$")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def _parse_instant(value: object) -> datetime:
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC)
    if not isinstance(value, str):
        raise PydanticCustomError("instant_type", "Input should be a string")
    text = value.upper()
    try:
        instant = datetime.fromisoformat(text) if _INSTANT.fullmatch(text) else None
    except ValueError:
        instant = None
    if instant is None:
        message = "Input should be an instant with an offset, 2026-11-22T09:30:00Z"
        if _LOST_PLUS.search(text):
            message += "; in a query a + is written %2B"
        raise PydanticCustomError("instant_invalid", message)
    try:
        return instant.astimezone(UTC)
    except OverflowError:
        message = "Input should be within the years 1 to 9999 in UTC"
        raise PydanticCustomError("out_of_range", message) from None


def _parse_date(value: object) -> date:
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    if not isinstance(value, str):
        raise PydanticCustomError("date_type", "Input should be a string")
    try:
        return date.fromisoformat(value if _DATE.fullmatch(value) else "")
    except ValueError:
        raise PydanticCustomError("date_invalid", "Input should be a date, 2026-11-22") from None


def _parse_flag(value: object) -> object:
    # Pydantic would also take `1`, `on` and `yes`.
    if isinstance(value, str):
        if value not in {"true", "false"}:
            raise PydanticCustomError("bool_parsing", "Input should be true or false")
        return value == "true"
    return value


Flag = Annotated[bool, BeforeValidator(_parse_flag)]
"""`true` or `false` in a query."""

InstantInput = Annotated[
    datetime,
    BeforeValidator(_parse_instant),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""An instant of RFC 3339 with its offset, brought to UTC; finer than microseconds is cut."""

DateInput = Annotated[
    date, BeforeValidator(_parse_date), WithJsonSchema({"type": "string", "format": "date"})
]
"""A date as `YYYY-MM-DD`, and nothing else."""
