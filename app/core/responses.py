"""The envelope around every answer, as the contract lays it down."""

from datetime import UTC, datetime
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import MISSING, BaseModel, ConfigDict, Field, PlainSerializer, WithJsonSchema

Payload = TypeVar("Payload")

FieldErrorCode = Literal[
    "missing",
    "unknown",
    "wrong_type",
    "too_short",
    "too_long",
    "out_of_range",
    "invalid",
    "duplicate",
    "incorrect",
]


def _with_microseconds(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


Instant = Annotated[
    datetime,
    PlainSerializer(_with_microseconds, return_type=str, when_used="json"),
    WithJsonSchema(
        {"type": "string", "format": "date-time", "examples": ["2026-11-22T09:30:00.000000Z"]},
        mode="serialization",
    ),
]
"""An instant that is written as RFC 3339 in UTC, always with microseconds and `Z`."""


class ReadModel(BaseModel):
    """The base of what is answered: read from rows, and every field stands in the document."""

    model_config = ConfigDict(
        from_attributes=True, json_schema_serialization_defaults_required=True
    )


class Envelope(ReadModel, Generic[Payload]):
    """Around every success. Endpoints return a named subclass, so that SDKs get good names."""

    status: Literal["success"] = "success"
    message: str = Field(default="ok", description="What happened, for people.")
    data: Payload


class FieldError(BaseModel):
    """One field that is to blame."""

    field: str = Field(
        description="The path to the field, from `body`, `query`, `path` or `header`.",
        examples=["body.title"],
    )
    message: str = Field(
        description="What is wrong, for people.", examples=["This field is required"]
    )
    code: FieldErrorCode = Field(description="What is wrong, for programs.")


class ErrorResponse(BaseModel):
    """Every error: `code` is stable and for programs, `message` is for people."""

    status: Literal["error"]
    message: str = Field(description="What went wrong, for people.")
    code: str = Field(description="What went wrong, for programs; never changes.")
    request_id: str = Field(description="The same as in `X-Request-ID` and in the service's log.")
    errors: list[FieldError] | MISSING = Field(
        default=MISSING, description="There only when single fields are to blame."
    )
