"""The orders in which lists come, each matched by an index to the letter, and their positions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from functools import cache, partial
from operator import itemgetter
from typing import Any, Literal

from sqlalchemy import ColumnElement, UnaryExpression, literal, literal_column, tuple_
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.types import TypeEngine

from app.db.types import WholeInstant
from app.tasks.models import DUE_ASCENDING, DUE_DESCENDING, Task, title_key

Sort = Literal[
    "created_at",
    "-created_at",
    "updated_at",
    "-updated_at",
    "due",
    "-due",
    "priority",
    "-priority",
    "title",
    "-title",
]


Row = Mapping[str, Any]


def _due_of(task: Row, *, never: str) -> str:
    due_on: date | None = task["due_on"]
    due_at: datetime | None = task["due_at"]
    if due_on is not None:
        return datetime.combine(due_on, time.max, UTC).isoformat()
    return due_at.isoformat() if due_at is not None else never


def _instant_of(task: Row, *, name: str) -> str:
    instant: datetime = task[name]
    return instant.isoformat()


@dataclass(frozen=True, slots=True)
class Ordering:
    """A key and a direction; the id breaks ties in the same direction.

    A position, which cursors hold, is the value of a task's key as text and the task's id.
    `value_of` takes the text from a task, and `parse` makes of it what a parameter of the key's
    `type` takes.
    """

    key: ColumnElement[Any] | InstrumentedAttribute[Any]
    descending: bool
    type: TypeEngine[Any]
    value_of: Callable[[Row], str]
    parse: Callable[[str], Any] = str

    def order_by(self) -> list[UnaryExpression[Any]]:
        columns = (self.key, Task.id)
        return [column.desc() if self.descending else column.asc() for column in columns]

    def position_of(self, task: Row) -> list[str | int]:
        return [self.value_of(task), task["id"]]

    def infinity(self, value: str) -> ColumnElement[Any] | None:
        """The SQL for a value that is an infinite instant, which the driver does not take; or None.

        Tasks without a due date have one as their key.
        """
        if self.parse is str or not value.endswith("infinity"):
            return None
        return literal_column(f"'{value}'::timestamptz")

    def literal(self, value: str) -> ColumnElement[Any]:
        """The key's value of a position in SQL."""
        infinity = self.infinity(value)
        return literal(self.parse(value), self.type) if infinity is None else infinity

    def is_after(self, key: ColumnElement[Any], task_id: ColumnElement[int]) -> ColumnElement[bool]:
        """Whether a task comes after the position."""
        here = tuple_(self.key, Task.id)
        there = tuple_(key, task_id)
        return here < there if self.descending else here > there


def _by_instant(
    key: ColumnElement[Any] | InstrumentedAttribute[Any],
    *,
    descending: bool,
    value_of: Callable[[Row], str],
) -> Ordering:
    return Ordering(key, descending, WholeInstant(), value_of, datetime.fromisoformat)


@cache
def ordering_of(sort: Sort) -> Ordering:
    descending = sort.startswith("-")
    match sort.removeprefix("-"):
        case "updated_at":
            return _by_instant(
                Task.updated_at,
                descending=descending,
                value_of=partial(_instant_of, name="updated_at"),
            )
        case "due":
            never = "-infinity" if descending else "infinity"
            return _by_instant(
                literal_column(DUE_DESCENDING if descending else DUE_ASCENDING),
                descending=descending,
                value_of=partial(_due_of, never=never),
            )
        case "priority":
            return Ordering(Task.priority, descending, Task.priority.type, itemgetter("priority"))
        case "title":
            return Ordering(
                Task.title_key,
                descending,
                Task.title_key.type,
                lambda task: title_key(task["title"]),
            )
    return _by_instant(
        Task.created_at, descending=descending, value_of=partial(_instant_of, name="created_at")
    )


NEWEST_DELETION_FIRST = _by_instant(
    Task.deleted_at, descending=True, value_of=partial(_instant_of, name="deleted_at")
)
