"""Tasks to and from files."""

import os
import shutil
import sys
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, BinaryIO, TypeVar, cast

import typer
from rich.console import Console
from rich.progress import Progress
from sqlalchemy.ext.asyncio import AsyncSession

from app.cli.common import fail, in_transaction, tell, user_called, with_database
from app.core.settings import Settings
from app.db.session import Database
from app.tasks.models import Task
from app.tasks.queries import count_of
from app.tasks.transfer.exporting import all_tasks_of, in_format, walk
from app.tasks.transfer.formats import FORMATS, ExportFormat
from app.tasks.transfer.importing import (
    AccountClosedError,
    ImportRefusedError,
    ImportReport,
    OvertakenError,
    import_tasks,
)
from app.tasks.transfer.reading import ImportFormat, Row, UnreadableFileError, read_rows

STANDARD_STREAM = Path("-")
# How many rows are read between two looks at the progress bar.
ROWS_PER_STEP = 500

tasks = typer.Typer(help="Bring tasks to and from files.", no_args_is_help=True)

Advance = Callable[[float, float | None], None]
FormatT = TypeVar("FormatT", bound=StrEnum)
Owner = Annotated[str, typer.Option("--user", help="Whose tasks, by username or email.")]


def _format_of(path: Path, formats: type[FormatT]) -> FormatT:
    try:
        return formats(path.suffix.lower().removeprefix("."))
    except ValueError:
        fail(f"say by --format what {path} is: {', '.join(formats)}")


@contextmanager
def _told_in_words(action: str, path: Path) -> Iterator[None]:
    """For what touches nothing but the file: elsewhere an OSError is the database's."""
    try:
        yield
    except OSError as error:
        fail(f"cannot {action} {path}: {error.strerror}")


def _progress() -> Progress:
    return Progress(console=Console(stderr=True))


def _bar(progress: Progress, description: str) -> Advance:
    """A new bar, which is told how much of how much is done."""
    bar = progress.add_task(description, total=None)
    return lambda done, total: progress.update(bar, completed=done, total=total)


@contextmanager
def _complete_or_absent(path: Path) -> Iterator[BinaryIO]:
    """A file to write that stands under its name only when the block has ended well."""
    if path == STANDARD_STREAM:
        yield sys.stdout.buffer
        with _told_in_words("write", path):
            sys.stdout.buffer.flush()
        return
    # A device or a pipe stays what it is; a link goes on to point to the file.
    in_place = path.exists() and not path.is_file()
    target = path if in_place else path.resolve()
    part = target if in_place else target.with_name(f".{target.name}.{os.getpid()}.part")
    with _told_in_words("write", path):
        file = part.open("wb")
    try:
        with file:
            yield file
            with _told_in_words("write", path):
                file.flush()
        if not in_place:
            with _told_in_words("write", path):
                part.replace(target)
    finally:
        if not in_place:
            part.unlink(missing_ok=True)


@tasks.command("export")
def export_tasks(
    user: Owner,
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file to write; - is standard output.")
    ] = STANDARD_STREAM,
    form: Annotated[
        ExportFormat | None,
        typer.Option(
            "--format", help="Otherwise what the file's suffix says; json if there is none."
        ),
    ] = None,
) -> None:
    """Write all tasks of a user, but for those in the trash, oldest first.

    json and csv can be imported again. csv is for spreadsheets, ics for calendars. The file is
    there when it is complete, and not before.
    """
    if form is None:
        form = _format_of(output, ExportFormat) if output.suffix else ExportFormat.JSON
    chosen = FORMATS[form]
    done = 0

    async def work(database: Database, _: Settings) -> None:
        async with database.session() as session:
            within = all_tasks_of((await user_called(session, user)).id)
            total = await session.scalar(count_of(within))

        async def counted(advance: Advance) -> AsyncGenerator[Sequence[Task]]:
            nonlocal done
            async for batch in walk(database, within):
                yield batch
                done += len(batch)
                advance(done, total)

        with _complete_or_absent(output) as file, _progress() as progress:
            advance = _bar(progress, "Exporting")
            async for piece in in_format(chosen, counted(advance)):
                with _told_in_words("write", output):
                    file.write(piece)
            advance(1, 1)

    with_database(work)
    tell(f"Tasks exported: {done}.")


@tasks.command("import")
def import_file(
    file: Annotated[Path, typer.Argument(help="The file to read; - is standard input.")],
    user: Owner,
    *,
    form: Annotated[
        ImportFormat | None, typer.Option("--format", help="Otherwise what the file's suffix says.")
    ] = None,
    keep_going: Annotated[
        bool,
        typer.Option("--keep-going", help="Import the valid rows, though others are not valid."),
    ] = False,
) -> None:
    """Create a user's tasks from a JSON array or a CSV file with a header row.

    All of them are imported or, if there is any fault, none. The fields are those of the API and of
    an export: created_at, updated_at and completed_at are kept where they are given; id, owner_id
    and version mean nothing here.

    A row whose external_id is that of one of the user's tasks replaces this task, or leaves it as
    it is if nothing differs: so it is safe to repeat. A row without an external_id makes a new task
    each time. Exits with 1 if any row was refused.
    """
    chosen = form or _format_of(file, ImportFormat)

    try:
        with _opened(file) as opened:

            async def work(session: AsyncSession, _: Settings) -> ImportReport:
                owner = await user_called(session, user)
                with closing(read_rows(opened, chosen)) as rows, _progress() as progress:
                    size = _size_of(opened)
                    read = _bar(progress, "Reading")
                    written = _bar(progress, "Writing")
                    report = await import_tasks(
                        session,
                        owner.id,
                        _counted(rows, lambda: read(opened.tell(), size)),
                        keep_going=keep_going,
                        advance=lambda done: written(done, 1),
                    )
                    read(1, 1)
                    written(1, 1)
                    return report

            report = in_transaction(work)
    except UnreadableFileError as error:
        fail(f"{error}. Nothing was imported.")
    except ImportRefusedError as error:
        _tell_faults(error.report)
        fail("nothing was imported.")
    except AccountClosedError:
        fail("the account was closed meanwhile. Nothing was imported.")
    except OvertakenError:
        fail("others write the same tasks, time and again; try later. Nothing was imported.")
    _tell_faults(report)
    _tell_success(report)
    if report.refused:
        raise typer.Exit(1)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A file to read that is all there: a pipe is read to its end before that.

    To wait for who writes into it would hold up the event loop, which then heeds no signal, and
    the transaction.
    """
    with ExitStack() as stack:
        with _told_in_words("read", path):
            file = (
                sys.stdin.buffer
                if path == STANDARD_STREAM
                else stack.enter_context(path.open("rb"))
            )
            if not file.seekable():
                complete = cast("BinaryIO", stack.enter_context(TemporaryFile()))
                shutil.copyfileobj(file, complete)
                complete.seek(0)
                file = complete
        yield file


def _size_of(file: BinaryIO) -> int | None:
    """In bytes, where the system tells it."""
    with suppress(OSError):
        return os.fstat(file.fileno()).st_size or None
    return None


def _counted(rows: Iterator[Row], look: Callable[[], None]) -> Iterator[Row]:
    """The rows, with a look at the progress between some of them."""
    for number, row in enumerate(rows):
        if number % ROWS_PER_STEP == 0:
            look()
        yield row


def _printable(text: str) -> str:
    """Names come from the file, which must not steer the terminal."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def _tell_faults(report: ImportReport) -> None:
    for fault in report.faults:
        where = f"{fault.place}, {_printable(fault.field)}" if fault.field else fault.place
        tell(f"{where}: {fault.message}")
    if report.untold:
        tell(f"Faults that are not shown: {report.untold}.")
    if report.refused:
        tell(f"Rows that are not valid: {report.refused}.")


def _tell_success(report: ImportReport) -> None:
    imported = report.created + report.replaced + report.unchanged
    typer.echo(
        f"Tasks imported: {imported}, of which {report.created} created, {report.replaced} "
        f"replaced, {report.unchanged} unchanged."
    )
    if report.unnamed:
        typer.echo(
            f"Tasks without an external_id: {report.unnamed}. "
            "Importing the file again would create them again."
        )
