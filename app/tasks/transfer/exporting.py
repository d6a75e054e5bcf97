"""Tasks as a file, streamed: what is exported is never in memory as a whole."""

from collections.abc import AsyncGenerator, Sequence

from anyio import to_thread
from sqlalchemy import ColumnElement, Select, and_, literal, select

from app.accounts.credentials import Actor, ensure_credential_is_live
from app.db.session import Database, Session
from app.tasks.models import Task
from app.tasks.ordering import ordering_of
from app.tasks.transfer.formats import FileFormat

# This many tasks of the greatest size, 100 kB each, must fit in memory several times over.
TASKS_AT_ONCE = 200
# Of a task neither `created_at` nor the id ever changes.
_OLDEST_FIRST = ordering_of("created_at")


def all_tasks_of(owner_id: int) -> ColumnElement[bool]:
    """For the command line, which acts without a credential that could end."""
    return and_(Task.owner_id == owner_id, Task.deleted_at.is_(None))


def _select_next(within: ColumnElement[bool], after: Task | None) -> Select[Task]:
    statement = select(Task).where(within).order_by(*_OLDEST_FIRST.order_by()).limit(TASKS_AT_ONCE)
    if after is None:
        return statement
    here = _OLDEST_FIRST.literal(_OLDEST_FIRST.value_of({"created_at": after.created_at}))
    return statement.where(_OLDEST_FIRST.is_after(here, literal(after.id)))


async def walk(
    database: Database, within: ColumnElement[bool], actor: Actor | None = None
) -> AsyncGenerator[Sequence[Task]]:
    """All tasks `within` a condition, some at a time, oldest first.

    A task that is there throughout comes exactly once. Between two yields no connection is held,
    so that a slow reader costs the pool nothing. Raises `Unauthenticated` when the credential of
    the `actor` ends, whose guard is in the condition; the command line acts without one.
    """
    last: Task | None = None
    while True:
        async with database.session() as session:
            tasks = (await session.scalars(_select_next(within, last))).all()
            if not tasks and actor is not None:
                await ensure_credential_is_live(Session(session), actor)
        yield tasks
        if len(tasks) < TASKS_AT_ONCE:
            return
        last = tasks[-1]


async def in_format(
    form: FileFormat, batches: AsyncGenerator[Sequence[Task]]
) -> AsyncGenerator[bytes]:
    """The pieces of the file that holds the tasks of all batches, the end of which it needs."""
    lead = form.opening
    separator = form.before_first
    async for tasks in batches:
        if tasks:
            # In a thread: it may take 100 ms, and others' requests must go on.
            yield lead + separator + await to_thread.run_sync(form.render, tasks)
            lead, separator = b"", form.between
    yield lead + form.closing
