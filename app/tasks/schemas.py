"""What clients send and get about tasks."""

from datetime import date
from typing import Any, NoReturn, Self

from pydantic import MISSING, AliasChoices, Field, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

from app.core.pagination import PageQuery
from app.core.responses import Envelope, Instant, ReadModel
from app.core.schemas import Flag, InputModel
from app.tasks.fields import (
    Description,
    DueAt,
    DueOn,
    ExternalId,
    Metadata,
    MetadataPatch,
    Priority,
    Status,
    Tags,
    Title,
)
from app.tasks.filters import TaskFilters
from app.tasks.models import TaskPriority, TaskStatus
from app.tasks.ordering import Sort


def _refuse_second_due(model: InputModel) -> NoReturn:
    message = "Input should not have both due_at and due_on"
    fault = InitErrorDetails(
        type=PydanticCustomError("due_invalid", message), loc=("due_on",), input=None
    )
    raise ValidationError.from_exception_data(type(model).__name__, [fault], hide_input=True)


class TaskReplace(InputModel):
    """All that a client says about a task under a name of the client's own."""

    title: Title
    description: Description = ""
    status: Status = TaskStatus.PENDING
    priority: Priority = TaskPriority.MEDIUM
    tags: Tags = Field(default=[])
    due_at: DueAt = None
    due_on: DueOn = None
    metadata: Metadata = Field(default={})

    @model_validator(mode="after")
    def _due_once(self) -> Self:
        if self.due_at is not None and self.due_on is not None:
            _refuse_second_due(self)
        return self


class TaskCreate(TaskReplace):
    """A new task."""

    external_id: ExternalId = None


class TaskUpdate(InputModel):
    """A JSON Merge Patch (RFC 7396): what is absent stays as it is."""

    title: Title | MISSING = MISSING
    description: Description | MISSING = MISSING
    status: Status | MISSING = MISSING
    priority: Priority | MISSING = MISSING
    tags: Tags | MISSING = MISSING
    due_at: DueAt | MISSING = MISSING
    due_on: DueOn | MISSING = MISSING
    external_id: ExternalId | MISSING = MISSING
    metadata: MetadataPatch | MISSING = MISSING

    @model_validator(mode="after")
    def _due_once(self) -> Self:
        changes = self.model_dump(include={"due_at", "due_on"}, exclude_none=True)
        if len(changes) > 1:
            _refuse_second_due(self)
        return self


class TaskQuery(TaskFilters, PageQuery):
    """The filters of the list, its order, and which part of it."""

    sort: Sort = Field(
        default="-created_at",
        description=(
            "The order; `-` before it for descending. The id breaks ties in the same direction. "
            "Titles are sorted by their lower case in code-point order, priorities from low to "
            "critical, and what is not due comes last both ways."
        ),
        examples=["due"],
    )


class TrashQuery(PageQuery):
    """Which part of the trash."""


class TaskDeletion(InputModel):
    """How a task is deleted."""

    permanent: Flag = Field(
        default=False, description="Remove it for good, from the trash too.", examples=[False]
    )


class TaskRead(ReadModel):
    """A task."""

    id: int = Field(examples=[7])
    title: str = Field(examples=["Water the plants"])
    description: str = Field(examples=["The ferns first."])
    status: TaskStatus = Field(examples=["in_progress"])
    priority: TaskPriority = Field(examples=["high"])
    owner_id: int = Field(description="The account it belongs to.", examples=[1])
    tags: list[str] = Field(examples=[["garden", "weekly"]])
    due_at: Instant | None = Field(description="The instant by which it is due.")
    due_on: date | None = Field(
        description="The day in the course of which it is due.", examples=["2026-12-01"]
    )
    completed_at: Instant | None = Field(
        description="When its status became `completed`; null while it is not."
    )
    external_id: str | None = Field(
        description="What another system calls it.", examples=["crm/4711"]
    )
    metadata: dict[str, Any] = Field(
        # A model of SQLAlchemy keeps the plain name for itself.
        validation_alias=AliasChoices("metadata_", "metadata"),
        description="A JSON object of the caller's own.",
        examples=[{"colour": "green"}],
    )
    version: int = Field(description="Starts at 1 and rises with every change.", examples=[1])
    created_at: Instant
    updated_at: Instant


class TaskResponse(Envelope[TaskRead]):
    """One task."""


class TaskDeletedResponse(Envelope[None]):
    """The task is gone."""


class PageInfo(ReadModel):
    """Where in a list a page is."""

    total: int | None = Field(
        description="How many there are in all; null if not counted, or with a cursor.",
        examples=[41],
    )
    page: int | None = Field(description="Null with a cursor.", examples=[1])
    pages: int | None = Field(
        description="How many pages they fill, 0 when there are none; null if not counted.",
        examples=[3],
    )
    next_cursor: str | None = Field(
        description="Send it as `cursor` to go on from here; null at the end.",
        examples=["WyIyMDI2LTExLTIyVDA5OjMwOjAwKzAwOjAwIiw3XZ0"],
    )


class TaskPage(PageInfo):
    """A page of tasks."""

    tasks: list[TaskRead]


class TaskListResponse(Envelope[TaskPage]):
    """A page of tasks."""


class TrashedTaskRead(TaskRead):
    """A task in the trash."""

    deleted_at: Instant


class TrashPage(PageInfo):
    """A page of the trash."""

    tasks: list[TrashedTaskRead]


class TrashListResponse(Envelope[TrashPage]):
    """A page of the trash."""


class StatusCounts(ReadModel):
    """How many tasks have each status."""

    pending: int = Field(examples=[12])
    in_progress: int = Field(examples=[3])
    completed: int = Field(examples=[26])
    cancelled: int = Field(examples=[0])


class PriorityCounts(ReadModel):
    """How many tasks have each priority."""

    low: int = Field(examples=[5])
    medium: int = Field(examples=[30])
    high: int = Field(examples=[6])
    critical: int = Field(examples=[0])


class TaskStats(ReadModel):
    """How many tasks the filters find."""

    total: int = Field(examples=[41])
    overdue: int = Field(
        description="How many of them are past their due moment and still to do.", examples=[2]
    )
    by_status: StatusCounts
    by_priority: PriorityCounts


class TaskStatsResponse(Envelope[TaskStats]):
    """How many tasks the filters find."""
