"""What can be done with tasks."""

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.credentials import Actor, ensure_credential_is_live
from app.accounts.errors import Unauthenticated
from app.db.errors import violated_constraint
from app.tasks import queries
from app.tasks.errors import TaskNotFound
from app.tasks.models import Task
from app.tasks.schemas import TaskCreate, TaskPage, TaskQuery, TaskRead, TaskUpdate


async def create_task(session: AsyncSession, actor: Actor, data: TaskCreate) -> Task:
    """Store a task. Raises `Unauthenticated` if the actor's credential has ended."""
    statement = queries.insert_task(actor, data).returning(Task)
    try:
        task = (await session.scalars(statement)).one_or_none()
    except IntegrityError as error:
        if violated_constraint(error) != "fk_tasks_owner_id":
            raise
        # The account was closed after the statement had begun.
        raise Unauthenticated from None
    if task is None:
        raise Unauthenticated
    return task


async def read_task(session: AsyncSession, actor: Actor, task_id: int) -> Task:
    """The task. Raises `TaskNotFound`."""
    task = (await session.scalars(queries.select_task(actor, task_id))).one_or_none()
    if task is None:
        raise TaskNotFound
    return task


async def update_task(session: AsyncSession, actor: Actor, task_id: int, data: TaskUpdate) -> Task:
    """Apply a merge patch and return the task as it is then. Raises `TaskNotFound`."""
    changes = data.model_dump()
    if not changes:
        return await read_task(session, actor, task_id)
    statement = queries.update_task(actor, task_id, changes).returning(Task)
    task = (await session.scalars(statement)).one_or_none()
    if task is None:
        raise TaskNotFound
    return task


async def delete_task(session: AsyncSession, actor: Actor, task_id: int) -> None:
    """Remove the task. Raises `TaskNotFound`."""
    statement = queries.delete_task(actor, task_id).returning(Task.id)
    if await session.scalar(statement) is None:
        raise TaskNotFound


async def list_tasks(session: AsyncSession, actor: Actor, query: TaskQuery) -> TaskPage:
    """A page of the actor's tasks with exact totals."""
    total = await session.scalar(queries.count_matching(actor, query)) or 0
    tasks = (await session.scalars(queries.select_page(actor, query))).all() if total else []
    if not tasks:
        # An ended credential sees nothing either, and must be told so.
        await ensure_credential_is_live(session, actor)
    return TaskPage(
        tasks=[TaskRead.model_validate(task) for task in tasks],
        total=total,
        page=query.page,
        pages=query.pages(total),
    )
