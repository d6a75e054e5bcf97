"""What clients send and get about tasks."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Annotated, Any, ClassVar, Self

from pydantic import MISSING, AliasChoices, ConfigDict, Field, model_validator

from app.core.bounds import Count, Id, text
from app.core.pagination import CURSOR_MAX_LENGTH, CURSOR_PATTERN, MAXIMUM_PER_PAGE, PageQuery
from app.core.responses import Envelope, Instant, ReadModel, written
from app.core.schemas import NULL, Flag, InputModel, field_refused
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
from app.tasks.models import (
    DESCRIPTION_MAX_LENGTH,
    EXTERNAL_ID_MAX_LENGTH,
    MAXIMUM_TAGS,
    TAG_MAX_LENGTH,
    TITLE_MAX_LENGTH,
    TaskPriority,
    TaskStatus,
)
from app.tasks.ordering import Sort

TWO_DUES = "Input should not have both due_at and due_on"

_SENT: dict[str, Any] = {
    "title": "Water the plants",
    "description": "The ferns first.",
    "priority": "high",
    "tags": ["garden", "weekly"],
    "due_at": "2026-12-01T09:30:00Z",
    "metadata": {"colour": "green"},
}


_READ: dict[str, Any] = {
    "id": 7,
    **_SENT,
    "status": "in_progress",
    "owner_id": 1,
    "due_at": "2026-12-01T09:30:00.000000Z",
    "due_on": NULL,
    "completed_at": NULL,
    "external_id": "crm/4711",
    "version": 1,
    "created_at": "2026-11-22T09:30:00.000000Z",
    "updated_at": "2026-11-22T09:30:00.000000Z",
}


class TaskReplace(InputModel):
    """All that a client says about a task under a name of the client's own."""

    model_config = ConfigDict(json_schema_extra={"examples": [_SENT]})

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
            raise field_refused(type(self), "due_on", TWO_DUES)
        return self


class TaskCreate(TaskReplace):
    """A new task."""

    external_id: ExternalId = None


class TaskUpdate(InputModel):
    """A JSON Merge Patch (RFC 7396): what is absent stays as it is."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"status": "completed", "due_at": NULL}]}
    )

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
        if isinstance(self.due_at, datetime) and isinstance(self.due_on, date):
            raise field_refused(type(self), "due_on", TWO_DUES)
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


_STATUSES: dict[str, TaskStatus] = {status.value: status for status in TaskStatus}
_PRIORITIES: dict[str, TaskPriority] = {priority.value: priority for priority in TaskPriority}


class TaskRead(ReadModel):
    """A task."""

    model_config = ConfigDict(json_schema_extra={"examples": [_READ]})

    instants: ClassVar[Sequence[str]] = ("due_at", "completed_at", "created_at", "updated_at")

    id: Id = Field(description="The task's id.", examples=[7])
    title: Annotated[str, text(TITLE_MAX_LENGTH)] = Field(
        description="What is to be done.", examples=["Water the plants"]
    )
    description: Annotated[str, text(DESCRIPTION_MAX_LENGTH)] = Field(
        description="More about it.", examples=["The ferns first."]
    )
    status: TaskStatus = Field(description="How far it is.", examples=["in_progress"])
    priority: TaskPriority = Field(description="How urgent it is.", examples=["high"])
    owner_id: Id = Field(description="The account it belongs to.", examples=[1])
    tags: list[Annotated[str, text(TAG_MAX_LENGTH)]] = Field(
        description="Words to find it by.",
        examples=[["garden", "weekly"]],
        json_schema_extra={"maxItems": MAXIMUM_TAGS},
    )
    due_at: Instant | None = Field(description="The instant by which it is due.")
    due_on: date | None = Field(
        description="The day in the course of which it is due.", examples=["2026-12-01"]
    )
    completed_at: Instant | None = Field(
        description="When its status became `completed`; null while it is not."
    )
    external_id: Annotated[str, text(EXTERNAL_ID_MAX_LENGTH)] | None = Field(
        description="What another system calls it.", examples=["crm/4711"]
    )
    metadata: dict[str, Any] = Field(
        # A model of SQLAlchemy keeps the plain name for itself.
        validation_alias=AliasChoices("metadata_", "metadata"),
        description="A JSON object of the caller's own.",
        examples=[{"colour": "green"}],
    )
    version: Id = Field(description="Starts at 1 and rises with every change.", examples=[1])
    created_at: Instant = Field(description="When it was created.")
    updated_at: Instant = Field(description="When it was changed last.")

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Self:
        """A task as a statement has read it: the database has checked it all."""
        values = {name: row[name] for name in cls.__pydantic_fields__}
        values["status"] = _STATUSES[values["status"]]
        values["priority"] = _PRIORITIES[values["priority"]]
        for name in cls.instants:
            instant = values[name]
            if instant is not None and not instant.microsecond:
                values[name] = written(instant)
        return cls.trusted(values)


class TaskResponse(Envelope[TaskRead]):
    """One task."""


class TaskDeletedResponse(Envelope[None]):
    """The task is gone."""


class PageInfo(ReadModel):
    """Where in a list a page is."""

    total: Count | None = Field(
        description="How many there are in all; null if not counted, or with a cursor.",
        examples=[41],
    )
    page: Id | None = Field(
        description="Which page it is, from 1; null with a cursor.", examples=[1]
    )
    pages: Count | None = Field(
        description=(
            "How many pages they fill, 0 when there are none; null if not counted, or with a "
            "cursor."
        ),
        examples=[3],
    )
    next_cursor: Annotated[str, text(CURSOR_MAX_LENGTH, pattern=CURSOR_PATTERN)] | None = Field(
        description="Send it as `cursor` to go on from here; null at the end.",
        examples=["WyIyMDI2LTExLTIyVDA5OjMwOjAwKzAwOjAwIiw3XZ0"],
    )


class TaskPage(PageInfo):
    """A page of tasks."""

    tasks: list[TaskRead] = Field(
        description="In the order asked for.", json_schema_extra={"maxItems": MAXIMUM_PER_PAGE}
    )


class TaskListResponse(Envelope[TaskPage]):
    """A page of tasks."""


class TrashedTaskRead(TaskRead):
    """A task in the trash."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [_READ | {"deleted_at": "2026-11-23T09:30:00.000000Z"}]}
    )

    instants: ClassVar[Sequence[str]] = (*TaskRead.instants, "deleted_at")

    deleted_at: Instant = Field(description="When it was deleted.")


class TrashPage(PageInfo):
    """A page of the trash."""

    tasks: list[TrashedTaskRead] = Field(
        description="The newest deletion first.",
        json_schema_extra={"maxItems": MAXIMUM_PER_PAGE},
    )


class TrashListResponse(Envelope[TrashPage]):
    """A page of the trash."""


class StatusCounts(ReadModel):
    """How many tasks have each status."""

    pending: Count = Field(description="How many are pending.", examples=[12])
    in_progress: Count = Field(description="How many are in progress.", examples=[3])
    completed: Count = Field(description="How many are completed.", examples=[26])
    cancelled: Count = Field(description="How many are cancelled.", examples=[0])


class PriorityCounts(ReadModel):
    """How many tasks have each priority."""

    low: Count = Field(description="How many have a low priority.", examples=[5])
    medium: Count = Field(description="How many have a medium priority.", examples=[30])
    high: Count = Field(description="How many have a high priority.", examples=[6])
    critical: Count = Field(description="How many have a critical priority.", examples=[0])


class TaskStats(ReadModel):
    """How many tasks the filters find."""

    total: Count = Field(description="How many there are in all.", examples=[41])
    overdue: Count = Field(
        description="How many of them are past their due moment and still to do.", examples=[2]
    )
    by_status: StatusCounts
    by_priority: PriorityCounts


class TaskStatsResponse(Envelope[TaskStats]):
    """How many tasks the filters find."""
