"""What the commands have in common: a database that is there, and words when something is wrong."""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn, TypeVar

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts import service as accounts
from app.accounts.models import User
from app.core.logging import configure_logging
from app.core.settings import Environment, InvalidSettings, Settings, load_settings
from app.db.embedded import embedded_database
from app.db.errors import DATABASE_ERRORS, in_words
from app.db.migrations import MigrationsMissingError
from app.db.migrations import migrate as migrate_database
from app.db.session import Database

Result = TypeVar("Result")


def fail(message: str) -> NoReturn:
    typer.echo(f"taskflow: {message}", err=True)
    raise typer.Exit(1)


def tell(message: str) -> None:
    typer.echo(message, err=True)


@contextmanager
def settings_with_database() -> Iterator[Settings]:
    """The settings; in development without `DATABASE_URL`, with the embedded database started."""
    settings = load_settings()
    if settings.database_url is not None:
        yield settings
    else:
        if settings.environment is not Environment.DEVELOPMENT:
            raise InvalidSettings(["  DATABASE_URL is required outside development"])
        with embedded_database(settings.data_dir, notify=tell) as database:
            if database.shared_with is not None:
                tell(
                    f"Sharing the development database that process {database.shared_with} runs; "
                    "it stops with that process."
                )
            yield load_settings(database_url=database.url)


@contextmanager
def database_faults_told() -> Iterator[None]:
    """What the database refuses within the block ends the command in words, unless it is a bug."""
    try:
        yield
    except DATABASE_ERRORS as error:
        words = in_words(error)
        if words is None:
            raise
        fail(words)


def migrated(settings: Settings) -> None:
    """Bring the schema up to date, or end the command in words."""
    try:
        with database_faults_told():
            migrate_database(settings.required_database_url, settings.database_pooler)
    except MigrationsMissingError:
        fail("there are no migrations beside the package; install a checkout with pip's --editable")


def with_database(work: Callable[[Database, Settings], Awaitable[Result]]) -> Result:
    """Run `work` on a schema that is migrated first in development.

    SIGTERM cancels it, as Ctrl-C does, so that nothing half done is left behind.
    """

    async def work_and_close(settings: Settings) -> Result:
        database = Database(settings)
        try:
            return await work(database, settings)
        finally:
            await database.close()

    async def run(settings: Settings) -> Result:
        task = asyncio.create_task(work_and_close(settings))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await task

    with settings_with_database() as settings:
        if settings.environment is Environment.DEVELOPMENT:
            migrated(settings)
        # Standard output is for what the command was asked for.
        configure_logging(level=settings.log_level, form=settings.log_format, file=sys.stderr)
        try:
            with database_faults_told():
                return asyncio.run(run(settings))
        except asyncio.CancelledError:
            raise typer.Exit(128 + signal.SIGTERM) from None


def in_transaction(work: Callable[[AsyncSession, Settings], Awaitable[Result]]) -> Result:
    """`with_database`, in one transaction that is committed when `work` ends well."""

    async def run(database: Database, settings: Settings) -> Result:
        async with database.transaction() as session:
            return await work(session, settings)

    return with_database(run)


async def user_called(session: AsyncSession, name: str) -> User:
    user = await accounts.find_user(session, name)
    if user is None:
        fail(f"there is no user {name!r}")
    return user
