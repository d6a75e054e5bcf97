"""Tasks from a file, in one transaction: all of them, or none.

Rows are checked one by one and copied into a temporary table. Only when the file has been read to
its end are the tasks themselves written, so that no lock is held while a file arrives slowly. Then
locks are taken in the order of batches: the account, the tasks by their ids, and new names last.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from sqlalchemy import Insert, Update, delete, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.schema import CreateTable

from app.core.bounds import MAXIMUM_ERRORS_SHOWN, MAXIMUM_ID
from app.core.errors import field_errors
from app.core.responses import FieldError
from app.core.schemas import InstantInput, field_refused
from app.db.errors import DATABASE_ERRORS, DEADLOCK, sqlstate_of
from app.tasks.fields import METADATA_TOO_LARGE
from app.tasks.models import TaskStatus, title_key
from app.tasks.schemas import TaskCreate
from app.tasks.transfer import staging
from app.tasks.transfer.reading import Row
from app.tasks.transfer.staging import staged

# What one statement writes: it takes about a second, and may take DATABASE_STATEMENT_TIMEOUT.
ROWS_AT_ONCE = 1_000
CHARACTERS_AT_ONCE = 1024 * 1024
ATTEMPTS = 5
# Instants that a task's history can have: spreadsheets make 1900 of nothing, and clocks differ.
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
CLOCKS_DIFFER_BY = timedelta(days=1)


def _plausible(instant: datetime) -> datetime:
    if not EARLIEST <= instant <= datetime.now(UTC) + CLOCKS_DIFFER_BY:
        raise PydanticCustomError("out_of_range", "Input should be from 1970 to now")
    return instant


PastInstant = Annotated[InstantInput, AfterValidator(_plausible)]
Unused = Annotated[int, Field(ge=1, le=MAXIMUM_ID)]


class TaskImport(TaskCreate):
    """A task in a file: what a client sends, and what an export adds to it.

    Of the latter the instants are kept. The task gets an id, an owner and a version of its own.
    """

    id: Unused | None = None
    owner_id: Unused | None = None
    version: Unused | None = None
    completed_at: PastInstant | None = None
    created_at: PastInstant | None = None
    updated_at: PastInstant | None = None

    @model_validator(mode="after")
    def _instants_agree(self) -> Self:
        if self.completed_at is not None and self.status is not TaskStatus.COMPLETED:
            message = "Input should be absent unless the status is completed"
            raise field_refused(type(self), "completed_at", message)
        if self.created_at and self.updated_at and self.updated_at < self.created_at:
            raise field_refused(type(self), "updated_at", "Input should not be before created_at")
        return self


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a row, and where: `field` is empty for the row as a whole."""

    place: str
    field: str
    message: str


@dataclass(slots=True)
class ImportReport:
    """What came of an import, or what is wrong with the file."""

    created: int = 0
    replaced: int = 0
    unchanged: int = 0
    unnamed: int = 0
    """How many of the created have no external_id."""
    refused: int = 0
    faults: list[Fault] = field(default_factory=list)
    """At most `MAXIMUM_ERRORS_SHOWN` of them."""
    untold: int = 0
    """How many more there are."""

    def refuse(self, place: str, faults: Iterable[FieldError]) -> None:
        self.refused += 1
        room = MAXIMUM_ERRORS_SHOWN - len(self.faults)
        told = [Fault(place, fault.field, fault.message) for fault in faults]
        self.faults += told[:room]
        self.untold += len(told[room:])


class ImportRefusedError(Exception):
    """Nothing is imported, because of the faults in the report."""

    def __init__(self, report: ImportReport) -> None:
        super().__init__(f"{report.refused} rows are not valid")
        self.report = report


class AccountClosedError(Exception):
    """Nothing is imported: the owner's account is gone."""


class OvertakenError(Exception):
    """Nothing is imported: others took the same external_ids, time and again."""


def _isoformat(moment: Any) -> str | None:  # noqa: ANN401 - a date or an instant
    return None if moment is None else moment.isoformat()


def _record(number: int, place: str, data: TaskImport) -> tuple[Any, ...]:
    """A row of the temporary table, in the order of its columns."""
    return (
        number,
        place,
        data.title,
        title_key(data.title),
        data.description,
        data.status.value,
        data.priority.value,
        data.tags,
        _isoformat(data.due_at),
        _isoformat(data.due_on),
        data.external_id,
        json.dumps(data.metadata, ensure_ascii=False),
        _isoformat(data.completed_at),
        _isoformat(data.created_at),
        _isoformat(data.updated_at),
    )


def _checked(row: Row) -> tuple[TaskImport | None, list[FieldError]]:
    if row.fields is None:
        return None, row.faults
    try:
        return TaskImport.model_validate(row.fields), row.faults
    except ValidationError as error:
        return None, [*row.faults, *field_errors(error.errors())]


_METADATA = staged.c.keys().index("metadata")


class _Copying:
    """Copies checked rows into the temporary table, some at a time."""

    def __init__(self, session: AsyncSession, report: ImportReport) -> None:
        self._session = session
        self._report = report
        self._records: list[tuple[Any, ...]] = []
        self._characters = 0
        self._last = 0
        self.ranges: list[tuple[int, int]] = []
        """The first and the last number of the rows that were copied at once."""

    async def add(self, place: str, data: TaskImport) -> None:
        self._last += 1
        record = _record(self._last, place, data)
        self._records.append(record)
        self._characters += len(data.description) + len(record[_METADATA])
        if len(self._records) == ROWS_AT_ONCE or self._characters > CHARACTERS_AT_ONCE:
            await self.flush()

    async def flush(self) -> None:
        if not self._records:
            return
        connection = await (await self._session.connection()).get_raw_connection()
        driver: Any = connection.driver_connection
        await driver.copy_records_to_table(
            staged.name, records=self._records, columns=staged.c.keys()
        )
        self.ranges.append((self._records[0][0], self._last))
        too_large = staging.select_too_large(*self.ranges[-1])
        fault = FieldError(field="metadata", message=METADATA_TOO_LARGE, code="too_long")
        for number, place in (await self._session.execute(too_large)).all():
            self._report.refuse(place, [fault])
            await self._session.execute(delete(staged).where(staged.c.number == number))
        self._records, self._characters = [], 0


async def _copy(
    session: AsyncSession, rows: Iterable[Row], report: ImportReport
) -> list[tuple[int, int]]:
    """Check all rows and copy the good ones; returns the ranges of what can be written at once."""
    await session.execute(CreateTable(staged))
    copying = _Copying(session, report)
    for row in rows:
        data, faults = _checked(row)
        if data is None or faults:
            report.refuse(row.place, faults)
        else:
            await copying.add(row.place, data)
    await copying.flush()
    await _refuse_repeated(session, report)
    return copying.ranges


async def _refuse_repeated(session: AsyncSession, report: ImportReport) -> None:
    statement = staging.select_repeated(limit=MAXIMUM_ERRORS_SHOWN)
    repeated = (await session.execute(statement)).all()
    for place, first, _ in repeated:
        message = f"Input should not be the same as in {first}"
        report.refuse(place, [FieldError(field="external_id", message=message, code="duplicate")])
    if repeated:
        _, _, total = repeated[0]
        report.refused += total - len(repeated)
        report.untold += total - len(repeated)
        await session.execute(staging.delete_repeated())


@dataclass(frozen=True, slots=True)
class _Rows:
    """What has been copied: how many rows, how many with an external_id, and their numbers."""

    ranges: Sequence[tuple[int, int]]
    total: int
    named: int

    @property
    def last(self) -> int:
        return self.ranges[-1][1]


async def _rows_of(session: AsyncSession, statement: Insert | Update) -> int:
    """How many rows a statement writes."""
    connection = await session.connection()
    return (await connection.execute(statement)).rowcount


async def _lock_replaced(session: AsyncSession, owner_id: int) -> int:
    """Lock the tasks that rows replace; returns how many there are."""
    statement = staging.lock_replaced(owner_id)
    # Some at a time, each with the time of a statement: there may be many to wait for.
    locked = await session.stream(statement.execution_options(yield_per=ROWS_AT_ONCE))
    return sum([len(some) async for some in locked.partitions()])


async def _write(
    session: AsyncSession, owner_id: int, rows: _Rows, advance: Callable[[float], None]
) -> tuple[int, int]:
    """Write the tasks of the rows; returns how many are created, and how many replaced.

    Raises `AccountClosedError`, and `OvertakenError` if another attempt may succeed.
    """
    if await session.scalar(staging.keep_account(owner_id)) is None:
        raise AccountClosedError
    locked = await _lock_replaced(session, owner_id)
    created = replaced = 0
    for first, last in rows.ranges:
        created += await _rows_of(session, staging.create(owner_id, first, last))
        advance(last / rows.last / 2)
    # Others may have made tasks since we looked for the names, and may take them away again.
    if created + locked < rows.total and await _lock_replaced(session, owner_id) < rows.named:
        raise OvertakenError
    if created < rows.total:
        for first, last in rows.ranges:
            replaced += await _rows_of(session, staging.replace(owner_id, first, last))
            advance((rows.last + last) / rows.last / 2)
    return created, replaced


async def _write_in_turn(
    session: AsyncSession, owner_id: int, rows: _Rows, advance: Callable[[float], None]
) -> tuple[int, int]:
    """`_write`, again when it has met others that lock the same in another order."""
    for _ in range(ATTEMPTS):
        try:
            async with session.begin_nested():
                return await _write(session, owner_id, rows, advance)
        except OvertakenError:
            # What came between is there to be seen by now, or gone.
            pass
        except DATABASE_ERRORS as error:
            if sqlstate_of(error) != DEADLOCK:
                raise
    raise OvertakenError


async def import_tasks(
    session: AsyncSession,
    owner_id: int,
    rows: Iterable[Row],
    *,
    keep_going: bool,
    advance: Callable[[float], None],
) -> ImportReport:
    """Create the tasks of all rows, or replace the owner's live ones of the same external_id.

    Runs in the session's transaction, which the caller commits. A replacement is that of a PUT:
    id and `created_at` stay, and equal content keeps the version. `advance` is told which part of
    the checked rows, from 0 to 1, is written; it goes back when others were in the way.

    Raises `ImportRefusedError` if a row has a fault, unless `keep_going` leaves such rows out,
    `AccountClosedError`, `OvertakenError`, and what `rows` raises.
    """
    # The file may come slowly, from a pipe for example.
    await session.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
    report = ImportReport()
    ranges = await _copy(session, rows, report)
    if report.refused and not keep_going:
        raise ImportRefusedError(report)
    total, named = (
        await session.execute(select(func.count(), func.count(staged.c.external_id)))
    ).one()
    # Nothing else would tell the planner how many rows a temporary table has; and as the tasks grow
    # meanwhile, a plan of the beginning does not do to the end.
    await session.execute(text(f"ANALYZE {staged.name}"))
    await session.execute(text("SET LOCAL plan_cache_mode = force_custom_plan"))
    report.created, report.replaced = await _write_in_turn(
        session, owner_id, _Rows(ranges, total, named), advance
    )
    report.unnamed = total - named
    report.unchanged = total - report.created - report.replaced
    return report
