"""JSON as this service reads it, whether it comes as a body or in a file, and as it keeps it."""

import json
from codecs import BOM_UTF8
from collections import Counter
from typing import Any

from pydantic_core import from_json

from app.core.errors import MalformedJSON, ValidationFailed, field_errors
from app.core.responses import FieldError

compact_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""JSON as it is stored and measured."""


def read_json(body: bytes) -> Any:  # noqa: ANN401 - JSON is anything
    """The value of strict JSON: no NaN, no Infinity, no lone surrogate, bounded in depth.

    Raises `MalformedJSON`, and `ValidationFailed` for members that are given more than once.
    """
    try:
        # Values would fill the parser's cache, and passwords would stay there.
        value = from_json(body, allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        message = str(error)
        if body.startswith(BOM_UTF8):
            message = "It begins with a byte order mark, which JSON does not have"
        raise MalformedJSON(
            errors=[FieldError(field="body", message=message, code="invalid")]
        ) from None
    try:
        _NAMES.decode(body.decode())
    except _RepeatedMembersError:
        raise ValidationFailed(errors=field_errors(_repeated_members(body))) from None
    return value


class _RepeatedMembersError(Exception):
    pass


def _refuse_repeated(pairs: list[tuple[str, Any]]) -> None:
    """Look at the names of one object alone: bodies without a fault are read fast."""
    if len(dict(pairs)) < len(pairs):
        raise _RepeatedMembersError


_NAMES = json.JSONDecoder(object_pairs_hook=_refuse_repeated)


class _Members(dict[str, Any]):
    """A JSON object that remembers which of its members were given more than once."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.repeated = (
            [name for name, times in Counter(name for name, _ in pairs).items() if times > 1]
            if len(pairs) > len(self)
            else []
        )


def _repeated_members(body: bytes) -> list[dict[str, Any]]:
    """Faults for members given twice, of which RFC 8259 leaves open which one counts.

    `body` has been parsed before, so it is JSON of a bounded depth.
    """
    found: list[dict[str, Any]] = []

    def walk(value: object, location: tuple[str | int, ...]) -> None:
        if isinstance(value, _Members):
            message = "This field is given more than once"
            found.extend(
                {"loc": (*location, name), "type": "duplicate", "msg": message}
                for name in value.repeated
            )
            for name, member in value.items():
                walk(member, (*location, name))
        elif isinstance(value, list):
            for index, item in enumerate(value):
                walk(item, (*location, index))

    walk(json.loads(body, object_pairs_hook=_Members), ("body",))
    return found
