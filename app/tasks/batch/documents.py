"""JSON as PostgreSQL keeps it in `jsonb`, computed here.

A batch is applied in memory. What its operations answer, and whether they change anything, must be
what single calls would say, for which the database computes the same.
"""

from decimal import Decimal
from typing import Any

from app.core.strict_json import compact_json


def merge_patch(target: object, patch: object) -> Any:  # noqa: ANN401 - JSON is anything
    """RFC 7396: `patch` applied to what `as_stored` returned, as it would come back.

    Neither is changed; what the patch leaves alone is the target's own.
    """
    if not isinstance(patch, dict):
        return as_stored(patch)
    merged = dict(target) if isinstance(target, dict) else {}
    has_grown = False
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            has_grown |= name not in merged
            merged[name] = merge_patch(merged.get(name), value)
    return _in_order(merged) if has_grown else merged


def as_stored(value: Any) -> Any:  # noqa: ANN401 - JSON is anything
    """The value as it comes back: numbers written out, members by length and then by bytes."""
    match value:
        case dict():
            return _in_order({name: as_stored(member) for name, member in value.items()})
        case list():
            return [as_stored(item) for item in value]
        case float() if "e+" in repr(value):
            return int(Decimal(repr(value)))
        case float():
            # PostgreSQL knows no negative zero.
            return value + 0.0
    return value


def _in_order(members: dict[str, Any]) -> dict[str, Any]:
    names = sorted(members, key=lambda name: (len(name.encode()), name.encode()))
    return {name: members[name] for name in names}


def stored_size(document: Any) -> int:  # noqa: ANN401 - JSON is anything
    """The bytes of what `as_stored` returned as compact UTF-8 JSON, its numbers written out."""
    if document == {}:
        # What most tasks have, of which there may be a thousand.
        return len("{}")
    text = compact_json(document)
    # Only small numbers have an exponent in here; to look for them takes five times as long.
    return len(text.encode()) + (_written_out(document) if "e-" in text else 0)


def _written_out(value: Any) -> int:  # noqa: ANN401 - JSON is anything
    """How much longer the small numbers in the value are without exponents."""
    match value:
        case dict():
            return sum(_written_out(member) for member in value.values())
        case list():
            return sum(_written_out(item) for item in value)
        case float() if "e" in repr(value):
            return len(format(Decimal(repr(value)), "f")) - len(repr(value))
    return 0


def is_same(one: Any, other: Any) -> bool:  # noqa: ANN401 - JSON is anything
    """Whether the two are equal in `jsonb`, to which `1` and `1.0` are, but `1` and `true` not."""
    if one is other:
        return True
    match one, other:
        case dict(), dict():
            return one.keys() == other.keys() and all(
                is_same(one[name], other[name]) for name in one
            )
        case list(), list():
            return len(one) == len(other) and all(map(is_same, one, other))
        case (bool(), _) | (_, bool()):
            return False
    return bool(one == other)
