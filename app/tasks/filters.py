"""The filters of lists, statistics and exports: what clients send, and what it means in SQL."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
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
from sqlalchemy import (
    ColumnElement,
    and_,
    bindparam,
    cast,
    literal_column,
    or_,
    true,
    type_coerce,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.types import String

from app.core.bounds import NO_NUL
from app.core.schemas import Flag, InputModel, InstantInput, field_refused
from app.db.types import WholeInstant
from app.tasks.fields import Tag
from app.tasks.models import (
    DUE_ASCENDING,
    DUE_DESCENDING,
    EXTERNAL_ID_MAX_LENGTH,
    MAXIMUM_TAGS,
    TAG_MAX_LENGTH,
    Task,
    TaskPriority,
    TaskStatus,
)
from app.tasks.search import SEARCH_MAX_LENGTH, finds, parameters_of, parse_search

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
        raise PydanticCustomError(
            "zone_invalid", "Input should be a time zone of the IANA, such as Europe/Berlin"
        )
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
            "`-without` this. Chinese and Japanese are found by any run of their characters. "
            "Phrases and runs are found where each of their words or characters stands among its "
            "first 255 places in the task, and among the first 16,383 of all; words by themselves "
            "wherever they stand, unless they have more than 2,046 bytes."
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


@dataclass(frozen=True, slots=True)
class Given:
    """A filter that a client has given.

    Its `values` become parameters of a statement. Its `form` is what else its condition in SQL
    depends on: filters with the same name, form and number of values share a compiled statement.
    """

    name: str
    form: Hashable
    values: tuple[Any, ...]


_DAYS_END_IN_UTC = "days end in UTC"


def _values_of(name: str, value: Any, filters: TaskFilters) -> tuple[Hashable, tuple[Any, ...]]:  # noqa: ANN401 - of any filter
    """The `form` and the `values` of a `Given`."""
    match name:
        case "status" | "priority":
            return None, tuple(dict.fromkeys(value))
        case "q":
            return parameters_of(parse_search(value))
        case "due_after":
            day = filters.day_of(value)
            bound = min(value, datetime.combine(day, time.max, UTC))
            return filters.time_zone == "UTC" and _DAYS_END_IN_UTC, (bound, value, day)
        case "due_before":
            day = filters.day_of(value)
            bound = max(value, datetime.combine(day, time.min, UTC))
            return filters.time_zone == "UTC" and _DAYS_END_IN_UTC, (bound, value, day)
        case "overdue":
            now = datetime.now(UTC)
            return value, (now, filters.day_of(now))
    return None, (value,)


def given(filters: TaskFilters) -> list[Given]:
    """The filters that a client has given, in the order of `CONDITIONS`."""
    found = []
    for name in CONDITIONS:
        value = getattr(filters, name)
        if value is not MISSING and value != []:
            found.append(Given(name, *_values_of(name, value, filters)))
    return found


Values = Sequence[Any]
OwnerId = ColumnElement[int]


# The last microsecond of a day is before an instant if the instant is on a later day.
def _due_before(instant: Any, day: Any) -> ColumnElement[bool]:  # noqa: ANN401 - or parameters
    return or_(Task.due_at < instant, Task.due_on < day)


def _due_after(instant: Any, day: Any) -> ColumnElement[bool]:  # noqa: ANN401 - or parameters
    return or_(Task.due_at >= instant, Task.due_on >= day)


def _due_bounds(
    filters: Iterable[Given], key: ColumnElement[Any] | None
) -> Iterator[ColumnElement[bool]]:
    """`due_after` and `due_before` as bounds of a key that an index sorts by.

    They follow from the filters' own conditions, and let PostgreSQL begin to read an index at the
    bound. `key` is what the list is sorted by, if by due dates. Without it the bound is put on the
    key by which tasks without a due date lie outside of it: where few are due, few are read.
    """
    for one in filters:
        bound = one.values[0]
        if one.name == "due_after":
            found = literal_column(DUE_DESCENDING) if key is None else key
            yield found >= type_coerce(bound, WholeInstant())
        elif one.name == "due_before":
            found = literal_column(DUE_ASCENDING) if key is None else key
            yield found < type_coerce(bound, WholeInstant())
        else:
            continue
        if key is not None:
            yield Task.due.is_not(None)


def is_overdue(values: Values) -> ColumnElement[bool]:
    """Whether the due moment has passed and something is left to do; never null.

    The values are the present, and the day that it is in the caller's time zone.
    """
    return and_(_due_before(*values).is_(True), _one_of(Task.status, OPEN))


def _one_of(column: InstrumentedAttribute[Any], values: Values) -> ColumnElement[bool]:
    return column.in_([type_coerce(value, column.type) for value in values])


# What each filter means, given the form of its condition, the values, or what stands for them, and
# the owner of the tasks.
CONDITIONS: dict[str, Callable[[Any, Values, OwnerId], ColumnElement[bool]]] = {
    "status": lambda _, values, __: _one_of(Task.status, values),
    "priority": lambda _, values, __: _one_of(Task.priority, values),
    "tag": lambda _, values, __: Task.tags.contains(cast(values[0], ARRAY(String(TAG_MAX_LENGTH)))),
    "q": finds,
    "due_after": lambda _, values, __: _due_after(*values[1:]),
    "due_before": lambda _, values, __: _due_before(*values[1:]),
    "overdue": lambda form, values, _: is_overdue(values) if form else ~is_overdue(values),
    # No task is changed before it is created: the second condition follows from the first. By it an
    # index in the other order is read from there on.
    "created_after": lambda _, values, __: and_(
        Task.created_at >= values[0], Task.updated_at >= values[0]
    ),
    "created_before": lambda _, values, __: Task.created_at < values[0],
    "updated_after": lambda _, values, __: Task.updated_at >= values[0],
    "updated_before": lambda _, values, __: and_(
        Task.updated_at < values[0], Task.created_at < values[0]
    ),
    "external_id": lambda _, values, __: Task.external_id == values[0],
}


def passes(
    filters: Sequence[Given], owner_id: OwnerId, due_key: ColumnElement[Any] | None = None
) -> ColumnElement[bool]:
    """Whether a task of an owner passes all filters; not whose it is, nor if it is in the trash.

    The `due_key` is what the tasks are sorted by if by their due dates.
    """
    conditions = (
        CONDITIONS[one.name](one.form, one.values, owner_id)
        for one in filters
        # In UTC the bounds say all that these conditions do. PostgreSQL takes the two for
        # independent and expects too few tasks. For a list by due dates it would then sort some
        # thousands, where the index has their order. In another order it helps: few that are due
        # are better found by their index than by walking through all that are not.
        if due_key is None or one.form != _DAYS_END_IN_UTC
    )
    return and_(true(), *conditions, *_due_bounds(filters, due_key))


def without_values(filters: Iterable[Given]) -> tuple[Given, ...]:
    """The same filters with parameters for values: equal for all that differ in values alone."""
    return tuple(
        Given(one.name, one.form, tuple(f"{one.name}_{i}" for i in range(len(one.values))))
        for one in filters
    )


def values_by_parameter(filters: Iterable[Given]) -> dict[str, Any]:
    """What `without_values` has left out, by the names of the parameters."""
    return {f"{one.name}_{i}": value for one in filters for i, value in enumerate(one.values)}


def with_parameters(filters: Iterable[Given]) -> list[Given]:
    """The filters that `without_values` gave, for a statement that is compiled once."""
    return [
        Given(one.name, one.form, tuple(bindparam(name) for name in one.values)) for one in filters
    ]
