"""The envelope around every answer, as the contract lays it down."""

from datetime import UTC, datetime
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import (
    MISSING,
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
)

from app.core.bounds import MAXIMUM_ERRORS, text

Payload = TypeVar("Payload")
Message = Annotated[str, text(1_000)]
ErrorCode = Annotated[str, text(64, pattern="^[a-z_]+$")]

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


def written(instant: datetime | str) -> datetime | str:
    """An instant in UTC, as text if its microseconds are zero: Pydantic would leave those out."""
    if isinstance(instant, str):
        return instant
    if instant.tzinfo is not UTC:
        instant = instant.astimezone(UTC)
    return instant if instant.microsecond else instant.isoformat(timespec="microseconds")[:-6] + "Z"


Instant = Annotated[
    datetime
    | Annotated[str, StringConstraints(pattern=r"^[0-9]{4}-[0-9-]{5}T[0-9:]{8}\.000000Z$")],
    AfterValidator(written),
    WithJsonSchema(
        {"type": "string", "format": "date-time", "examples": ["2026-11-22T09:30:00.000000Z"]},
        mode="serialization",
    ),
]
"""An instant that is written as RFC 3339 in UTC, always with microseconds and `Z`.

A serializer in Python for it would take twice as long as all the rest of writing a list. So
Pydantic writes it, and `written` replaces only those that Pydantic would write in another form.
"""


class ReadModel(BaseModel):
    """The base of what is answered: read from rows, and every field stands in the document."""

    model_config = ConfigDict(
        from_attributes=True, json_schema_serialization_defaults_required=True
    )

    @classmethod
    def trusted(cls, values: dict[str, Any]) -> Self:
        """An instance of values for all fields, in their order, that are known to be right.

        `model_construct` without the search for defaults and aliases.
        """
        model = cls.__new__(cls)
        object.__setattr__(model, "__dict__", values)
        object.__setattr__(model, "__pydantic_fields_set__", set(values))
        object.__setattr__(model, "__pydantic_extra__", None)
        object.__setattr__(model, "__pydantic_private__", None)
        return model


class Envelope(ReadModel, Generic[Payload]):
    """Around every success. Endpoints return a named subclass, so that SDKs get good names."""

    status: Literal["success"] = Field(
        default="success", description="`success` here, `error` in every error."
    )
    message: Message = Field(
        default="ok", description="What happened, for people.", examples=["ok"]
    )
    data: Payload = Field(description="What the call gives back; null if nothing.")


class FieldError(BaseModel):
    """One field that is to blame."""

    field: Annotated[str, text(16_384)] = Field(
        description="The path to the field, from `body`, `query`, `path` or `header`.",
        examples=["body.title"],
    )
    message: Message = Field(
        description="What is wrong, for people.", examples=["This field is required"]
    )
    code: FieldErrorCode = Field(description="What is wrong, for programs.", examples=["missing"])


class ErrorResponse(BaseModel):
    """Every error: `code` is stable and for programs, `message` is for people."""

    status: Literal["error"] = Field(description="`error` here, `success` in every success.")
    message: Message = Field(
        description="What went wrong, for people.", examples=["The request is not valid"]
    )
    code: ErrorCode = Field(
        description="What went wrong, for programs; a code never changes, but others may be added.",
        examples=["validation_failed"],
    )
    request_id: Annotated[str, text(128, pattern="^[A-Za-z0-9._-]+$")] = Field(
        description="The same as in `X-Request-ID` and in the service's log.",
        examples=["5f0c1c9e2b7d4d0f9a51c9a4d7a3b1e8"],
    )
    errors: list[FieldError] | MISSING = Field(
        default=MISSING,
        description="The fields to blame; there only when single fields are.",
        json_schema_extra={"maxItems": MAXIMUM_ERRORS},
    )


def document_links(parameter: str, *operations: str) -> dict[str, Any]:
    """The `links` of a response in the document: operations that take its `id` as `parameter`."""
    return {
        operation: {
            "operationId": operation,
            "parameters": {parameter: "$response.body#/data/id"},
        }
        for operation in operations
    }
