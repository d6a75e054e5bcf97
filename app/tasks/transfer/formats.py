"""The files that tasks are exported to: JSON, CSV and iCalendar."""

import csv
import io
import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from app.core.strict_json import compact_json
from app.tasks.models import Task, TaskPriority, TaskStatus
from app.tasks.schemas import TaskRead

if TYPE_CHECKING:
    from icalendar import Todo

# Excel takes a CSV file without a byte order mark for one in the machine's old code page.
BYTE_ORDER_MARK = "\ufeff"
CSV_COLUMNS = tuple(TaskRead.model_fields)
# What makes a spreadsheet run a cell as a formula (OWASP, "CSV Injection"). An apostrophe before it
# defuses it. A cell that begins so by itself, apostrophe included, gets one more: so what was added
# can be told from what was there.
_RUNNABLE = re.compile("'*[=+\\-@\t\r\n＝＋－＠]")  # noqa: RUF001 - full-width, as meant

# RFC 5545 has no place for these in a text.
_CONTROL_CHARACTERS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_LINE_BREAKS = re.compile("\r\n|[\r\x85\u2028\u2029]")
# RFC 5545, section 3.8.1.9: 1 is the highest, 5 the medium, 9 the lowest.
_PRIORITIES = {
    TaskPriority.CRITICAL: 1,
    TaskPriority.HIGH: 3,
    TaskPriority.MEDIUM: 5,
    TaskPriority.LOW: 9,
}
_STATUSES = {
    TaskStatus.PENDING: "NEEDS-ACTION",
    TaskStatus.IN_PROGRESS: "IN-PROCESS",
    TaskStatus.COMPLETED: "COMPLETED",
    TaskStatus.CANCELLED: "CANCELLED",
}
_UID_NAMESPACE = uuid.UUID("d0b3f7c2-6c55-4c8e-9a3d-6f6b1a7e2c41")


class ExportFormat(StrEnum):
    """What a file of tasks is: JSON, CSV (RFC 4180), or a calendar's to-dos (RFC 5545)."""

    JSON = "json"
    CSV = "csv"
    ICS = "ics"


@dataclass(frozen=True)
class FileFormat:
    """How a file is put together, so that it can be written piece by piece.

    `render` gives some tasks with `between` between them. Nothing but `closing` ends a file: one
    that was broken off is not valid JSON or iCalendar, and a CSV without its last line break.
    """

    media_type: str
    opening: bytes
    before_first: bytes
    between: bytes
    closing: bytes
    render: Callable[[Sequence[Task]], bytes]


def _read(task: Task) -> TaskRead:
    return TaskRead.model_validate(task)


def _render_json(tasks: Sequence[Task]) -> bytes:
    return ",\n".join(_read(task).model_dump_json() for task in tasks).encode()


def defused(cell: str) -> str:
    """The cell, in a form that no spreadsheet runs; `restored` takes it back."""
    return f"'{cell}" if _RUNNABLE.match(cell) else cell


def restored(cell: str) -> str:
    """The cell as it was before `defused`; other cells stay as they are."""
    return cell[1:] if cell.startswith("'") and _RUNNABLE.match(cell) else cell


def _cell(value: Any) -> str:  # noqa: ANN401 - JSON is anything
    match value:
        case None:
            return ""
        case str():
            return defused(value)
        case list() | dict():
            return compact_json(value)
    return str(value)


def _csv_lines(rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue().removesuffix("\r\n").encode()


def _render_csv(tasks: Sequence[Task]) -> bytes:
    dumped = [_read(task).model_dump(mode="json") for task in tasks]
    return _csv_lines([[_cell(task[name]) for name in CSV_COLUMNS] for task in dumped])


def _ics_text(text: str) -> str:
    return _CONTROL_CHARACTERS.sub("\ufffd", _LINE_BREAKS.sub("\n", text))


def _todo(task: Task) -> "Todo":
    # It takes a tenth of a second to import, which only those pay who export calendars.
    from icalendar import Todo  # noqa: PLC0415 - see above

    todo = Todo()
    # The same in every export, and another in every installation: none of the three ever changes.
    name = f"{task.owner_id}/{task.id}/{task.created_at.isoformat()}"
    todo.add("uid", str(uuid.uuid5(_UID_NAMESPACE, name)))
    todo.add("dtstamp", task.updated_at)
    todo.add("created", task.created_at)
    todo.add("last-modified", task.updated_at)
    todo.add("summary", _ics_text(task.title))
    if task.description:
        todo.add("description", _ics_text(task.description))
    todo.add("status", _STATUSES[task.status])
    todo.add("priority", _PRIORITIES[task.priority])
    if task.tags:
        todo.add("categories", [_ics_text(tag) for tag in task.tags])
    if (due := task.due_at or task.due_on) is not None:
        todo.add("due", due)
    if task.completed_at is not None:
        todo.add("completed", task.completed_at)
    return todo


def _render_ics(tasks: Sequence[Task]) -> bytes:
    return b"".join(_todo(task).to_ical() for task in tasks)


FORMATS = {
    ExportFormat.JSON: FileFormat(
        media_type="application/json",
        opening=b"[",
        before_first=b"\n",
        between=b",\n",
        closing=b"\n]\n",
        render=_render_json,
    ),
    ExportFormat.CSV: FileFormat(
        media_type="text/csv; charset=utf-8; header=present",
        opening=BYTE_ORDER_MARK.encode() + _csv_lines([CSV_COLUMNS]),
        before_first=b"\r\n",
        between=b"\r\n",
        closing=b"\r\n",
        render=_render_csv,
    ),
    ExportFormat.ICS: FileFormat(
        media_type="text/calendar; charset=utf-8",
        opening=b"BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//taskflow//taskflow//EN\r\n",
        before_first=b"",
        between=b"",
        closing=b"END:VCALENDAR\r\n",
        render=_render_ics,
    ),
}
