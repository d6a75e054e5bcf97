"""The filters of lists, statistics and exports: what clients send, and what it means in SQL."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from functools import cache
from typing import Annotated, Any, Self
from zoneinfo import ZoneInfo, available_timezones

from pydantic import (
    MISSING,
    AfterValidator,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic_core import PydanticCustomError
from sqlalchemy import ColumnElement, and_, cast, or_, true
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import String

from app.core.bounds import NO_NUL
from app.core.schemas import Flag, InputModel, InstantInput, field_refused
from app.tasks.fields import Tag
from app.tasks.models import (
    EXTERNAL_ID_MAX_LENGTH,
    MAXIMUM_TAGS,
    TAG_MAX_LENGTH,
    Task,
    TaskPriority,
    TaskStatus,
)
from app.tasks.search import SEARCH_MAX_LENGTH, finds, parse_search

# Names in the database that stand for no place: the server's own zone, and that of a new machine.
NO_PLACES = {"Factory", "localtime"}
# More than there are values, so that a client need not look for those it has given twice.
MAXIMUM_REPEATS = 20
OPEN = (TaskStatus.PENDING, TaskStatus.IN_PROGRESS)


@cache
def _time_zones() -> frozenset[str]:
    # Reading them all takes a while, and a process that never asks need not.
    return frozenset(available_timezones() - NO_PLACES)


def _known_zone(name: str) -> str:
    if name != "UTC" and name not in _time_zones():
        raise PydanticCustomError("zone_invalid", "Input should be a time zone of the IANA")
    return name


def _searchable(text: str) -> str:
    parse_search(text)
    return text


class TaskFilters(InputModel):
    """What tasks must be like; all of it can be combined."""

    status: list[TaskStatus] = Field(
        default=[],
        max_length=MAXIMUM_REPEATS,
        description="Any of these; repeatable.",
        examples=[["pending", "in_progress"]],
    )
    priority: list[TaskPriority] = Field(
        default=[],
        max_length=MAXIMUM_REPEATS,
        description="Any of these; repeatable.",
        examples=[["high", "critical"]],
    )
    tag: list[Tag] = Field(
        default=[],
        max_length=MAXIMUM_TAGS,
        description="All of these, compared exactly; repeatable.",
        examples=[["garden"]],
    )
    q: (
        Annotated[
            str,
            StringConstraints(max_length=SEARCH_MAX_LENGTH, pattern=NO_NUL),
            AfterValidator(_searchable),
        ]
        | MISSING
    ) = Field(
        default=MISSING,
        description=(
            "Full text over title, description and tags, without regard to case and accents. Every "
            'word must be there, the last one also as a prefix; `"a phrase"` in this order; '
            "`-without` this. Chinese and Japanese are found by any run of their characters."
        ),
        examples=['water "lemon tree" -roses'],
    )
    due_after: InstantInput | MISSING = Field(
        default=MISSING,
        description="Due then or later.",
        examples=["2026-11-22T09:30:00Z"],
    )
    due_before: InstantInput | MISSING = Field(
        default=MISSING, description="Due earlier.", examples=["2026-11-22T09:30:00Z"]
    )
    overdue: Flag | MISSING = Field(
        default=MISSING,
        description=(
            "`true`: the due moment has passed and the status is `pending` or `in_progress`; "
            "`false`: every other task."
        ),
        examples=[True],
    )
    created_after: InstantInput | MISSING = Field(
        default=MISSING, description="Created then or later.", examples=["2026-11-22T09:30:00Z"]
    )
    created_before: InstantInput | MISSING = Field(
        default=MISSING, description="Created earlier.", examples=["2026-11-22T09:30:00Z"]
    )
    updated_after: InstantInput | MISSING = Field(
        default=MISSING, description="Changed then or later.", examples=["2026-11-22T09:30:00Z"]
    )
    updated_before: InstantInput | MISSING = Field(
        default=MISSING, description="Changed last earlier.", examples=["2026-11-22T09:30:00Z"]
    )
    external_id: (
        Annotated[
            str,
            StringConstraints(min_length=1, max_length=EXTERNAL_ID_MAX_LENGTH, pattern=NO_NUL),
        ]
        | MISSING
    ) = Field(
        default=MISSING, description="The task that another system calls so.", examples=["crm/4711"]
    )
    time_zone: Annotated[str, StringConstraints(max_length=64), AfterValidator(_known_zone)] = (
        Field(
            default="UTC",
            description=(
                "The IANA time zone in which a `due_on` has its day, as the last microsecond of "
                "which it counts."
            ),
            examples=["Europe/Berlin"],
            json_schema_extra={"pattern": "^[A-Za-z0-9_+/-]+$"},
        )
    )

    @model_validator(mode="after")
    def _due_within_the_calendar_of_the_zone(self) -> Self:
        for name in ("due_after", "due_before"):
            instant = getattr(self, name)
            if instant is not MISSING:
                try:
                    self.day_of(instant)
                except OverflowError:
                    message = "Input should be within the years 1 to 9999 in the time zone"
                    kind = "out_of_range"
                    raise field_refused(type(self), name, message, kind=kind) from None
        return self

    def day_of(self, instant: datetime) -> date:
        """The day of an instant in the caller's time zone. Raises `OverflowError` past 9999."""
        # UTC needs no time zone database, which a small machine may lack.
        zone = UTC if self.time_zone == "UTC" else ZoneInfo(self.time_zone)
        return instant.astimezone(zone).date()


def _due_before(filters: TaskFilters, instant: datetime) -> ColumnElement[bool]:
    # The last microsecond of a day is before an instant if the instant is on a later day.
    return or_(Task.due_at < instant, Task.due_on < filters.day_of(instant))


def _due_after(filters: TaskFilters, instant: datetime) -> ColumnElement[bool]:
    return or_(Task.due_at >= instant, Task.due_on >= filters.day_of(instant))


def is_overdue(filters: TaskFilters) -> ColumnElement[bool]:
    """Whether the due moment has passed and something is left to do; never null."""
    passed = _due_before(filters, datetime.now(UTC))
    return and_(passed.is_(True), Task.status.in_(OPEN))


# What each filter means, given its value and all the filters.
CONDITIONS: dict[str, Callable[[Any, TaskFilters], ColumnElement[bool]]] = {
    "status": lambda value, _: Task.status.in_(value),
    "priority": lambda value, _: Task.priority.in_(value),
    "tag": lambda value, _: Task.tags.contains(cast(value, ARRAY(String(TAG_MAX_LENGTH)))),
    "q": lambda value, _: finds(parse_search(value)),
    "due_after": lambda value, filters: _due_after(filters, value),
    "due_before": lambda value, filters: _due_before(filters, value),
    "overdue": lambda value, filters: is_overdue(filters) if value else ~is_overdue(filters),
    "created_after": lambda value, _: Task.created_at >= value,
    "created_before": lambda value, _: Task.created_at < value,
    "updated_after": lambda value, _: Task.updated_at >= value,
    "updated_before": lambda value, _: Task.updated_at < value,
    "external_id": lambda value, _: Task.external_id == value,
}


def passes(filters: TaskFilters) -> ColumnElement[bool]:
    """Whether a task passes all filters; not whose it is, nor whether it is in the trash."""
    given = ((name, getattr(filters, name)) for name in CONDITIONS)
    return and_(
        true(),
        *(
            CONDITIONS[name](value, filters)
            for name, value in given
            if value is not MISSING and value != []
        ),
    )
