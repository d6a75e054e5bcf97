"""What clients send and get about tasks."""

from functools import partial
from typing import Annotated

from pydantic import (
    MISSING,
    AfterValidator,
    BeforeValidator,
    Field,
    StringConstraints,
    WithJsonSchema,
)

from app.core.errors import NO_NUL
from app.core.responses import Envelope, Instant, ReadModel
from app.core.schemas import MAXIMUM_ID, InputModel, PageQuery, canonical_id, not_blank
from app.tasks.errors import TaskNotFound
from app.tasks.models import (
    DESCRIPTION_MAX_LENGTH,
    TITLE_MAX_LENGTH,
    TaskPriority,
    TaskStatus,
)

TaskId = Annotated[
    int,
    # Whatever is not an id of a task is a task that is not there: 404, never 400.
    BeforeValidator(partial(canonical_id, otherwise=TaskNotFound)),
    WithJsonSchema({"type": "integer", "minimum": 1, "maximum": MAXIMUM_ID}),
    Field(description="The task's id.", examples=[7]),
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


class TaskCreate(InputModel):
    """A new task."""

    title: Title
    description: Description = ""
    status: Status = TaskStatus.PENDING
    priority: Priority = TaskPriority.MEDIUM


class TaskUpdate(InputModel):
    """A JSON Merge Patch (RFC 7396): what is absent stays as it is."""

    title: Title | MISSING = MISSING
    description: Description | MISSING = MISSING
    status: Status | MISSING = MISSING
    priority: Priority | MISSING = MISSING


class TaskQuery(PageQuery):
    """The filters of the list, all combinable, and the page."""

    status: list[TaskStatus] = Field(
        default=[], description="Any of these; repeatable.", examples=[["pending", "in_progress"]]
    )
    priority: list[TaskPriority] = Field(
        default=[], description="Any of these; repeatable.", examples=[["high", "critical"]]
    )


class TaskRead(ReadModel):
    """A task."""

    id: int = Field(examples=[7])
    title: str = Field(examples=["Water the plants"])
    description: str = Field(examples=["The ferns first."])
    status: TaskStatus = Field(examples=["in_progress"])
    priority: TaskPriority = Field(examples=["high"])
    owner_id: int = Field(description="The account it belongs to.", examples=[1])
    completed_at: Instant | None = Field(
        description="When its status became `completed`; null while it is not."
    )
    version: int = Field(description="Starts at 1 and rises with every change.", examples=[1])
    created_at: Instant
    updated_at: Instant


class TaskResponse(Envelope[TaskRead]):
    """One task."""


class TaskDeletedResponse(Envelope[None]):
    """The task is gone."""


class TaskPage(ReadModel):
    """A page of tasks."""

    tasks: list[TaskRead]
    total: int = Field(description="How many tasks the filters find.", examples=[41])
    page: int = Field(examples=[1])
    pages: int = Field(description="How many pages they fill; 0 when there are none.", examples=[3])


class TaskListResponse(Envelope[TaskPage]):
    """A page of tasks."""
