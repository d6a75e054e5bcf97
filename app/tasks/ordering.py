"""The orders in which lists come, each matched by an index to the letter, and their positions."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, time
from typing import Any, Literal

from sqlalchemy import ColumnElement, UnaryExpression, literal, literal_column, tuple_
from sqlalchemy.orm import InstrumentedAttribute

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


def _instant(value: str) -> ColumnElement[Any]:
    if value.endswith("infinity"):
        return literal_column(f"'{value}'::timestamptz")
    return literal(datetime.fromisoformat(value), WholeInstant())


def _due_of(task: Task, *, never: str) -> str:
    if task.due_on is not None:
        return datetime.combine(task.due_on, time.max, UTC).isoformat()
    return task.due_at.isoformat() if task.due_at is not None else never


@dataclass(frozen=True, slots=True)
class Ordering:
    """A key and a direction; the id breaks ties in the same direction.

    A position is the key's value as JSON and the id: `value_of` takes the former from a task,
    `literal_of` gives it back to the database.
    """

    key: ColumnElement[Any] | InstrumentedAttribute[Any]
    descending: bool
    value_of: Callable[[Task], str]
    literal_of: Callable[[str], ColumnElement[Any]]

    def order_by(self) -> list[UnaryExpression[Any]]:
        columns = (self.key, Task.id)
        return [column.desc() if self.descending else column.asc() for column in columns]

    def position_of(self, task: Task) -> list[str | int]:
        return [self.value_of(task), task.id]

    def is_after(self, position: list[Any]) -> ColumnElement[bool]:
        """Whether a task comes after the position."""
        value, task_id = position
        here = tuple_(self.key, Task.id)
        there = tuple_(self.literal_of(value), literal(task_id, Task.id.type))
        return here < there if self.descending else here > there


def ordering_of(sort: Sort) -> Ordering:
    descending = sort.startswith("-")
    match sort.removeprefix("-"):
        case "updated_at":
            return Ordering(
                Task.updated_at, descending, lambda task: task.updated_at.isoformat(), _instant
            )
        case "due":
            never = "-infinity" if descending else "infinity"
            return Ordering(
                literal_column(DUE_DESCENDING if descending else DUE_ASCENDING),
                descending,
                lambda task: _due_of(task, never=never),
                _instant,
            )
        case "priority":
            return Ordering(
                Task.priority,
                descending,
                lambda task: task.priority.value,
                lambda value: literal(value, Task.priority.type),
            )
        case "title":
            return Ordering(
                Task.title_key,
                descending,
                lambda task: title_key(task.title),
                lambda value: literal(value, Task.title_key.type),
            )
    return Ordering(Task.created_at, descending, lambda task: task.created_at.isoformat(), _instant)


def _deletion_of(task: Task) -> str:
    return task.deleted_at.isoformat() if task.deleted_at is not None else "-infinity"


NEWEST_DELETION_FIRST = Ordering(
    key=Task.deleted_at, descending=True, value_of=_deletion_of, literal_of=_instant
)
