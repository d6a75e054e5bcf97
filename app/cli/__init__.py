"""The command line: run the service, bring the schema up to date, look after accounts."""

import errno
import json
import os
import resource
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import SecretStr, TypeAdapter, ValidationError
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from sqlalchemy.ext.asyncio import AsyncSession

from app import __version__
from app.accounts import service as accounts
from app.accounts.audit import audit_when_committed
from app.accounts.models import User
from app.accounts.passwords import check_password_policy
from app.accounts.schemas import Password, UserCreate
from app.cli.common import (
    fail,
    in_transaction,
    migrated,
    settings_with_database,
    tell,
    user_called,
    with_database,
)
from app.cli.tasks import tasks
from app.core.errors import APIError, field_errors
from app.core.logging import configure_logging
from app.core.metrics import common_folder
from app.core.security import PasswordHasher
from app.core.settings import Environment, InvalidSettings, Settings, load_settings
from app.core.tracing import traces_exporter
from app.db.programs import EmbeddedDatabaseError
from app.main import create_app
from app.server.run import run_server
from app.tasks import demo
from app.tasks.purge import purge as purge_database

DEMO_USERNAME = "demo"
DEMO_EMAIL = "demo@example.com"
DEMO_PASSWORD = "demo-password"  # noqa: S105 - it is printed, and refused in production

cli = typer.Typer(
    name="taskflow",
    help="A task-management service that other software builds on.",
    no_args_is_help=True,
    # Tracebacks with local variables would show secrets.
    pretty_exceptions_enable=False,
)
users = typer.Typer(help="Look after accounts.", no_args_is_help=True)
cli.add_typer(users, name="users")
cli.add_typer(tasks, name="tasks")

PASSWORD: TypeAdapter[SecretStr] = TypeAdapter(Password)


def main() -> None:
    """The entry point: runs a command and says in words what went wrong."""
    _open_standard_streams()
    try:
        for argument in sys.argv:
            argument.encode()
        cli()
    except UnicodeError:
        sys.exit("taskflow: arguments and passwords must be in UTF-8.")
    except (InvalidSettings, EmbeddedDatabaseError) as error:
        sys.exit(str(error))
    except OSError as error:
        # Standard output, say, is on a disk that is full.
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(f"taskflow: {where}{error.strerror or error}.")


def _open_standard_streams() -> None:
    """Lead what was closed to nowhere: the next file or connection would take its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open(mode)  # noqa: SIM115 - stays until the process ends
            setattr(sys, name, stream)


@cli.command()
def serve() -> None:
    """Run the service. In development this brings a database along and migrates it."""
    settings = load_settings()
    # Workers would find out, each time that they are started anew.
    traces_exporter()
    _refuse_taken_port(settings)
    # The database must be stopped also by a signal that comes before the server runs.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    configure_logging(level=settings.log_level, form=settings.log_format)
    _open_as_many_files_as_allowed()
    with settings_with_database() as settings, common_folder(workers=settings.workers):
        if settings.environment is Environment.DEVELOPMENT:
            tell("Migrating the database …")
            migrated(settings)
            tell(f"Open http://{_authority(settings)}/docs (Ctrl-C stops)")
        # Workers are processes of their own, and read their settings from the environment.
        os.environ["DATABASE_URL"] = settings.required_database_url
        os.environ["SECRET_KEY"] = settings.secret_key.get_secret_value()
        run_server(
            "app.main:app",
            host=settings.host,
            port=settings.port,
            workers=settings.workers,
            shutdown_delay=settings.shutdown_delay,
        )


def _open_as_many_files_as_allowed() -> None:
    """Each connection takes one, and the soft limit is often 1,024 for the sake of select(2)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Some systems call more than they allow infinite; the limit then stays as it is.
    with suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _refuse_taken_port(settings: Settings) -> None:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            what_helps = (
                "Stop what runs there, or choose another port: PORT=9000"
                if error.errno == errno.EADDRINUSE
                else "Check HOST and PORT."
            )
            fail(f"cannot listen on {_authority(settings)}: {error.strerror}. {what_helps}")


def _authority(settings: Settings) -> str:
    """Host and port as they stand in a URL (RFC 3986, section 3.2)."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{host}:{settings.port}"


@cli.command()
def migrate() -> None:
    """Bring the database's schema up to date. Safe to run from several nodes at once."""
    with settings_with_database() as settings:
        migrated(settings)
    typer.echo("The schema is up to date.")


@cli.command()
def openapi() -> None:
    """Print the OpenAPI document. Needs no database."""
    settings = load_settings(environment="testing", database_url="postgresql://unused/unused")
    typer.echo(json.dumps(create_app(settings).openapi(), indent=2, ensure_ascii=False))


@cli.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


PasswordFromStdin = Annotated[
    bool,
    typer.Option("--password-stdin", help="Read the password from standard input, one line."),
]


def _ask_password(*, from_stdin: bool) -> str:
    if from_stdin:
        line = sys.stdin.readline().rstrip("\r\n")
        line.encode()
        return line
    password: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    return password


def _refuse(error: ValidationError | APIError) -> NoReturn:
    """Say in words what an API client would get as an error."""
    faults = field_errors(error.errors()) if isinstance(error, ValidationError) else error.errors
    fail(
        "; ".join(
            f"{fault.field.removeprefix('body.') or 'password'}: {fault.message}"
            for fault in faults
        )
        or str(error.detail if isinstance(error, APIError) else error)
    )


async def _registered(session: AsyncSession, data: UserCreate, settings: Settings) -> User:
    user = await accounts.register_user(
        session, data, hasher=PasswordHasher(concurrency=1), settings=settings
    )
    audit_when_committed(session, "account_registered", user_id=user.id)
    return user


@users.command("create")
def create_user(username: str, email: str, *, password_stdin: PasswordFromStdin = False) -> None:
    """Make an account."""
    password = _ask_password(from_stdin=password_stdin)

    async def work(session: AsyncSession, settings: Settings) -> User:
        data = UserCreate.model_validate(
            {"username": username, "email": email, "password": password}
        )
        return await _registered(session, data, settings)

    try:
        user = in_transaction(work)
    except (ValidationError, APIError) as error:
        _refuse(error)
    typer.echo(f"Created user {user.username} with id {user.id}.")


@users.command("list")
def list_users() -> None:
    """List every account."""

    async def work(session: AsyncSession, _: Settings) -> list[User]:
        return await accounts.list_users(session)

    table = Table("id", "username", "email", "active", "created")
    for user in in_transaction(work):
        created = user.created_at.isoformat(timespec="seconds")
        active = "yes" if user.is_active else "no"
        table.add_row(str(user.id), user.username, user.email, active, created)
    Console(soft_wrap=True).print(table)


@users.command("activate")
def activate_user(name: str) -> None:
    """Let a user log in again, by username or email. Ended logins stay ended."""
    _set_active(name, active=True)


@users.command("deactivate")
def deactivate_user(name: str) -> None:
    """Keep a user out, by username or email: ends every login and key at once."""
    _set_active(name, active=False)


def _set_active(name: str, *, active: bool) -> None:
    async def work(session: AsyncSession, _: Settings) -> None:
        await accounts.set_active(session, await user_called(session, name), active=active)

    in_transaction(work)
    typer.echo(f"User {name} is {'active' if active else 'inactive'} now.")


@users.command("set-password")
def set_password(name: str, *, password_stdin: PasswordFromStdin = False) -> None:
    """Give a user a new password, by username or email, and end the user's logins."""
    password = _ask_password(from_stdin=password_stdin)

    async def work(session: AsyncSession, settings: Settings) -> None:
        user = await user_called(session, name)
        PASSWORD.validate_python(password)
        check_password_policy(password, settings, field="password")
        password_hash = await PasswordHasher(concurrency=1).hash(password)
        await accounts.set_password(session, user, password_hash)

    try:
        in_transaction(work)
    except (ValidationError, APIError) as error:
        _refuse(error)
    typer.echo(f"User {name} has a new password, and must log in again.")


@cli.command()
def purge() -> None:
    """Remove for good what has had its time: in the trash, and of idempotency keys."""
    removed = with_database(purge_database)
    if removed is None:
        typer.echo("Another process is purging; nothing was done here.")
    else:
        kinds = ", ".join(f"{kind.replace('_', ' ')} {count}" for kind, count in removed.items())
        typer.echo(f"Removed for good: {kinds}.")


@cli.command("seed-demo")
def seed_demo(
    *,
    tasks: Annotated[int, typer.Option(min=1, max=demo.MAXIMUM_TASKS, help="How many.")] = 200,
) -> None:
    """Make a demo account with realistic tasks. Repeating it adds only what is missing."""

    async def work(session: AsyncSession, settings: Settings) -> int:
        if settings.environment is Environment.PRODUCTION:
            fail("the demo account has a known password, and is not made in production")
        user = await accounts.find_user(session, DEMO_USERNAME)
        if user is None:
            data = UserCreate.model_validate(
                {"username": DEMO_USERNAME, "email": DEMO_EMAIL, "password": DEMO_PASSWORD}
            )
            user = await _registered(session, data, settings)
        elif user.email != DEMO_EMAIL:
            fail(f"there is a user {DEMO_USERNAME!r} who is not the demo account")
        with Progress(console=Console(stderr=True)) as progress:
            bar = progress.add_task("Seeding tasks", total=tasks)
            return await demo.seed_tasks(
                session, user.id, tasks, advance=lambda done: progress.update(bar, completed=done)
            )

    try:
        added = in_transaction(work)
    except (ValidationError, APIError) as error:
        _refuse(error)
    typer.echo(f"Tasks added: {added}. Log in as {DEMO_USERNAME} with {DEMO_PASSWORD}.")
