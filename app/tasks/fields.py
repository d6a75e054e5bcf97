"""The single fields of a task as clients send them, with their bounds."""

import math
from functools import partial
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, WithJsonSchema
from pydantic_core import PydanticCustomError
from starlette.convertors import StringConvertor, register_url_convertor

from app.core.bounds import MAXIMUM_ID, NO_NUL
from app.core.schemas import NULL, DateInput, InstantInput, canonical_id, each_once, not_blank
from app.core.strict_json import compact_json
from app.tasks.errors import TaskNotFound
from app.tasks.models import (
    DESCRIPTION_MAX_LENGTH,
    EXTERNAL_ID_MAX_LENGTH,
    MAXIMUM_TAGS,
    METADATA_MAX_BYTES,
    METADATA_MAX_LEVELS,
    TAG_MAX_LENGTH,
    TITLE_MAX_LENGTH,
    TaskPriority,
    TaskStatus,
)

METADATA_TOO_LARGE = f"Input should have at most {METADATA_MAX_BYTES} bytes as compact JSON"
METADATA_TOO_DEEP = f"Input should be nested at most {METADATA_MAX_LEVELS} levels deep"


def _check_storable(value: object, level: int) -> None:
    """Refuse what JSON in PostgreSQL cannot hold, and what is nested too deep."""
    if isinstance(value, str):
        if "\x00" in value:
            raise PydanticCustomError("string_invalid", "Input must not hold NUL")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise PydanticCustomError("out_of_range", "Input should hold finite numbers only")
    elif isinstance(value, dict | list):
        if level > METADATA_MAX_LEVELS:
            raise PydanticCustomError("out_of_range", METADATA_TOO_DEEP)
        if isinstance(value, dict):
            _check_storable("".join(value), level)
            value = value.values()
        for item in value:
            _check_storable(item, level + 1)


def _compact_size(value: object) -> int:
    return len(compact_json(value).encode())


def _storable(value: dict[str, Any]) -> dict[str, Any]:
    # The size first: to walk through a megabyte takes a hundred times as long.
    if _compact_size(value) > METADATA_MAX_BYTES:
        raise PydanticCustomError("string_too_long", METADATA_TOO_LARGE)
    _check_storable(value, 1)
    return value


def _kept_of(patch: object) -> object:
    """What of a merge patch will be in the result whatever it is merged into."""
    if not isinstance(patch, dict):
        return patch
    return {name: _kept_of(value) for name, value in patch.items() if value is not None}


def _storable_patch(patch: dict[str, Any]) -> dict[str, Any]:
    if (
        _compact_size(patch) > METADATA_MAX_BYTES
        and _compact_size(_kept_of(patch)) > METADATA_MAX_BYTES
    ):
        raise PydanticCustomError("string_too_long", METADATA_TOO_LARGE)
    _check_storable(patch, 1)
    return patch


class TaskIdConvertor(StringConvertor):
    """A segment that may be a task's id: anything but the names that stand beside the ids.

    So that a method which `/tasks/stats`, say, does not have is refused with 405.
    """

    regex = "(?!(?:batch|export|stats|trash)$)[^/]+"


class ExternalIdConvertor(StringConvertor):
    """The rest of a path, whatever it holds: Starlette's `path` ends at a line break."""

    regex = "(?s:.*)"


register_url_convertor("task_id", TaskIdConvertor())
register_url_convertor("external_id", ExternalIdConvertor())
TaskId = Annotated[
    int,
    # Whatever is not an id of a task is a task that is not there: 404, never 400.
    BeforeValidator(partial(canonical_id, otherwise=TaskNotFound)),
    WithJsonSchema({"type": "integer", "minimum": 1, "maximum": MAXIMUM_ID, "examples": [7]}),
    Field(description="The task's id."),
]
Title = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, min_length=1, max_length=TITLE_MAX_LENGTH, pattern=NO_NUL
    ),
    AfterValidator(not_blank),
    Field(description="What is to be done; trimmed, not blank.", examples=["Water the plants"]),
]
Description = Annotated[
    str,
    StringConstraints(max_length=DESCRIPTION_MAX_LENGTH, pattern=NO_NUL),
    Field(description="More about it, kept as sent.", examples=["The ferns first."]),
]
Status = Annotated[TaskStatus, Field(description="How far it is.", examples=["in_progress"])]
Priority = Annotated[TaskPriority, Field(description="How urgent it is.", examples=["high"])]
Tag = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, min_length=1, max_length=TAG_MAX_LENGTH, pattern=NO_NUL
    ),
    AfterValidator(not_blank),
]
Tags = Annotated[
    list[Tag],
    Field(
        max_length=MAXIMUM_TAGS,
        description="Words to find it by; each trimmed and there once, in the order given.",
        examples=[["garden", "weekly"]],
        json_schema_extra={"uniqueItems": True},
    ),
    AfterValidator(each_once),
]
DueAt = Annotated[
    InstantInput | None,
    Field(
        description=(
            "The instant by which it is due, to the microsecond: what is finer is cut; not "
            "together with `due_on`."
        ),
        examples=["2026-12-01T09:30:00Z"],
    ),
]
DueOn = Annotated[
    DateInput | None,
    Field(
        description="The day in the course of which it is due; not together with `due_at`.",
        examples=["2026-12-01"],
    ),
]
ExternalId = Annotated[
    Annotated[
        str, StringConstraints(min_length=1, max_length=EXTERNAL_ID_MAX_LENGTH, pattern=NO_NUL)
    ]
    | None,
    Field(
        description="What another system calls it; no two of the caller's tasks have the same.",
        examples=["crm/4711"],
    ),
]
_METADATA_SCHEMA: dict[str, Any] = {"type": "object", "additionalProperties": True}
Metadata = Annotated[
    dict[str, Any],
    AfterValidator(_storable),
    WithJsonSchema(_METADATA_SCHEMA),
    Field(
        description=(
            "A JSON object of the caller's own, at most 16 KiB as compact UTF-8 JSON and 32 levels."
        ),
        examples=[{"colour": "green"}],
    ),
]
MetadataPatch = Annotated[
    dict[str, Any],
    # The size of the result is for the database to know; some patches are too much for any.
    AfterValidator(_storable_patch),
    WithJsonSchema(
        {
            **_METADATA_SCHEMA,
            "description": "Merged into what is there at every depth; null removes a member.",
            "examples": [{"colour": NULL, "pot": {"size": 12}}],
        }
    ),
]
