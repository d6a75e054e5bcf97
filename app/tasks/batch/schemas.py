"""What clients send and get in a batch."""

from typing import Annotated, Literal

from pydantic import MISSING, BaseModel, ConfigDict, Field, SkipValidation, ValidationError

from app.core.bounds import MAXIMUM_ERRORS_SHOWN, MAXIMUM_ID, integer
from app.core.errors import field_errors
from app.core.responses import Envelope, ErrorCode, FieldError, Message, ReadModel
from app.core.schemas import InputModel
from app.tasks.errors import VersionConflict
from app.tasks.schemas import TaskCreate, TaskRead, TaskUpdate

MAXIMUM_OPERATIONS = 1000

TaskIdInput = Annotated[
    int, Field(strict=True, ge=1, le=MAXIMUM_ID, description="The task's id.", examples=[7])
]
ExpectedVersion = Annotated[
    int,
    Field(
        strict=True,
        ge=1,
        le=MAXIMUM_ID,
        description="Do it only if the task has this version; else 412.",
        examples=[3],
    ),
]


class CreateOperation(InputModel):
    """Create a task."""

    op: Literal["create"] = Field(description="What to do.", examples=["create"])
    task: TaskCreate = Field(description="The new task.")


class UpdateOperation(InputModel):
    """Change a task by a JSON Merge Patch."""

    op: Literal["update"] = Field(description="What to do.", examples=["update"])
    id: TaskIdInput
    version: ExpectedVersion | MISSING = MISSING
    changes: TaskUpdate = Field(description="What is to change; the rest stays as it is.")


class DeleteOperation(InputModel):
    """Move a task to the trash, or remove it for good."""

    op: Literal["delete"] = Field(description="What to do.", examples=["delete"])
    id: TaskIdInput
    version: ExpectedVersion | MISSING = MISSING
    permanent: bool = Field(
        default=False,
        strict=True,
        description="Remove it for good, from the trash too.",
        examples=[False],
    )


Operation = CreateOperation | UpdateOperation | DeleteOperation
_MODELS: dict[object, type[Operation]] = {
    "create": CreateOperation,
    "update": UpdateOperation,
    "delete": DeleteOperation,
}


class TaskBatch(InputModel):
    """Operations to run in order."""

    atomic: bool = Field(
        default=True,
        strict=True,
        description="All or nothing; if false, each operation stands alone.",
        examples=[True],
    )
    # Documented here and validated one by one in `parse_operation`: what is wrong with one is that
    # one's result if the batch is not atomic.
    operations: list[SkipValidation[Annotated[Operation, Field(discriminator="op")]]] = Field(
        min_length=1,
        max_length=MAXIMUM_OPERATIONS,
        description="What to do; each operation sees what those before it did.",
        examples=[
            [
                {"op": "create", "task": {"title": "Water the plants"}},
                {"op": "create", "task": {"title": "Buy seeds", "priority": "high"}},
            ]
        ],
    )


def parse_operation(index: int, sent: object) -> Operation | list[FieldError]:
    """The operation that was sent as the batch's `index`-th, or what is wrong with it."""
    path = ("body", "operations", index)
    if not isinstance(sent, dict):
        return field_errors([{"loc": path, "type": "model_attributes_type", "msg": ""}])
    if "op" not in sent:
        return field_errors([{"loc": (*path, "op"), "type": "missing", "msg": ""}])
    op = sent["op"]
    if not isinstance(op, str) or op not in _MODELS:
        message = "Input should be create, update or delete"
        kind = "invalid" if isinstance(op, str) else "op_type"
        return field_errors([{"loc": (*path, "op"), "type": kind, "msg": message}])
    try:
        return _MODELS[op].model_validate(sent)
    except ValidationError as error:
        if error.error_count() > MAXIMUM_ERRORS_SHOWN:
            # To put thousands into words would take seconds.
            message = f"This operation has more than {MAXIMUM_ERRORS_SHOWN} faults"
            return field_errors([{"loc": path, "type": "invalid", "msg": message}])
        return field_errors(
            [{**fault, "loc": (*path, *fault["loc"])} for fault in error.errors(include_url=False)]
        )


class OperationError(BaseModel):
    """Why an operation failed."""

    code: ErrorCode = Field(
        description="What went wrong, for programs; never changes.", examples=["version_conflict"]
    )
    message: Message = Field(
        description="What went wrong, for people.",
        examples=["The task has been changed since this version"],
    )
    errors: list[FieldError] | MISSING = Field(
        default=MISSING,
        description="There only when single fields are to blame.",
        json_schema_extra={"maxItems": MAXIMUM_ERRORS_SHOWN},
    )


class OperationResult(BaseModel):
    """What became of an operation: it holds either `data` or `error`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "index": 0,
                    "status": 412,
                    "error": {
                        "code": VersionConflict.code,
                        "message": VersionConflict.message,
                    },
                }
            ]
        }
    )

    index: Annotated[int, integer(0, MAXIMUM_OPERATIONS - 1)] = Field(
        description="The operation's place in the batch, from 0.", examples=[0]
    )
    status: Annotated[int, integer(200, 599)] = Field(
        description="The status that a call of its own would have had.", examples=[201]
    )
    data: TaskRead | MISSING | None = Field(
        default=MISSING, description="The task as it was then; null for a delete."
    )
    error: OperationError | MISSING = Field(
        default=MISSING, description="Why the operation did nothing."
    )


class BatchResults(ReadModel):
    """What became of each operation."""

    results: list[OperationResult] = Field(
        description="One for each operation, in order.",
        json_schema_extra={"maxItems": MAXIMUM_OPERATIONS},
    )


class BatchResponse(Envelope[BatchResults]):
    """What became of each operation."""
