"""Running a batch: everything in a handful of statements, however many operations there are."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, TypeVar

import asyncpg
from anyio import to_thread

from app.accounts.credentials import Actor, ensure_credential_is_live, values_of_actor
from app.accounts.errors import Unauthenticated
from app.core.bounds import MAXIMUM_ERRORS_SHOWN
from app.core.errors import APIError, Overloaded, ValidationFailed
from app.core.responses import FieldError, FieldErrorCode
from app.db.errors import violated_constraint
from app.db.session import Session, Transaction
from app.db.statements import Statement
from app.tasks.batch import queries
from app.tasks.batch.schemas import (
    CreateOperation,
    Operation,
    OperationError,
    OperationResult,
    TaskBatch,
    UpdateOperation,
    parse_operation,
)
from app.tasks.batch.workspace import Change, Row, Workspace
from app.tasks.errors import AnswerTooLarge, TaskNotFound, VersionConflict
from app.tasks.models import UNIQUE_EXTERNAL_ID
from app.tasks.schemas import TaskRead

ATTEMPTS = 5
# To make a character of a description searchable takes some microseconds, and so does checking one
# of metadata.
CHARACTERS_AT_ONCE = 500_000
# As many as the largest body has bytes: a small change of a large task answers with all of it.
CHARACTERS_ANSWERED = 8 * 1024 * 1024

Faults = list[FieldError]
T = TypeVar("T")


async def run_batch(
    transaction: AbstractAsyncContextManager[Transaction], actor: Actor, batch: TaskBatch
) -> list[OperationResult]:
    """Run the operations in order, in one transaction, and return what became of each.

    If the batch is atomic, raises `ValidationFailed` that names every invalid operation, else the
    error of the first that failed: `TaskNotFound`, `VersionConflict`, `ExternalIdTaken` or
    `ValidationFailed`. Raises `Unauthenticated`, `AnswerTooLarge`, and `Overloaded` when other
    writers were in the way time and again.
    """
    # A few operations may hold as much as a thousand: others' requests go on meanwhile.
    operations = await to_thread.run_sync(_parsed, batch.operations)
    if batch.atomic and (faults := [one for one in operations if isinstance(one, list)]):
        raise ValidationFailed(errors=_shown(faults))
    async with transaction as session:
        for _ in range(ATTEMPTS):
            try:
                async with session.savepoint():
                    return await _attempt(session, actor, operations, atomic=batch.atomic)
            except asyncpg.DeadlockDetectedError:
                continue
            except asyncpg.UniqueViolationError as error:
                # Another writer took an external_id under us. It is there to be seen by now: the
                # next attempt finds out which operation that concerns.
                if violated_constraint(error) != UNIQUE_EXTERNAL_ID:
                    raise
        raise Overloaded


def _parsed(sent: Sequence[object]) -> list[Operation | Faults]:
    return [parse_operation(index, one) for index, one in enumerate(sent)]


def _shown(faults: list[Faults]) -> Faults:
    """Each invalid operation's first fault, and of the others as many as answers commonly hold."""
    spare = max(0, MAXIMUM_ERRORS_SHOWN - len(faults))
    shown: Faults = []
    for first, *others in faults:
        shown += [first, *others[:spare]]
        spare -= len(others[:spare])
    return shown


async def _attempt(
    session: Session, actor: Actor, operations: Sequence[Operation | Faults], *, atomic: bool
) -> list[OperationResult]:
    workspace = await _lock(
        session, actor, [one for one in operations if not isinstance(one, list)]
    )
    outcome = await to_thread.run_sync(partial(_run, workspace, operations, atomic=atomic))
    if isinstance(outcome, APIError):
        await ensure_credential_is_live(session, actor)
        raise outcome
    await _write(session, actor, workspace)
    return outcome


def _run(
    workspace: Workspace, operations: Sequence[Operation | Faults], *, atomic: bool
) -> list[OperationResult] | APIError:
    """What became of each operation, or why nothing shall come of any."""
    results: list[OperationResult] = []
    characters = 0
    for index, operation in enumerate(operations):
        if isinstance(operation, list):
            results.append(_failed(index, ValidationFailed(errors=operation)))
            continue
        try:
            row = workspace.run(operation)
        except APIError as error:
            _blame(error, index, operation, atomic=atomic)
            if atomic:
                return error.with_traceback(None)
            results.append(_failed(index, error))
        else:
            status = 201 if isinstance(operation, CreateOperation) else 200
            data = None
            if row is not None:
                data = TaskRead.of_row(row)
                characters += workspace.characters_of(row)
                if characters > CHARACTERS_ANSWERED:
                    return AnswerTooLarge()
            results.append(OperationResult(index=index, status=status, data=data))
    return results


async def _lock(session: Session, actor: Actor, operations: Sequence[Operation]) -> Workspace:
    """Lock the tasks that the operations name, by id or by external_id.

    Raises `Unauthenticated` if the account was closed.
    """
    ids: set[int] = set()
    external_ids: set[str] = set()
    creates = 0
    for operation in operations:
        given: object = None
        if isinstance(operation, CreateOperation):
            creates += 1
            given = operation.task.external_id
        else:
            ids.add(operation.id)
            if isinstance(operation, UpdateOperation):
                given = operation.changes.external_id
        if isinstance(given, str):
            external_ids.add(given)
    of_actor = values_of_actor(actor)
    allotted = await session.fetch(queries.ALLOT_IDS, {**of_actor, "creates": creates})
    if not allotted:
        raise Unauthenticated
    rows: list[Row] = []
    if ids or external_ids:
        named = {"ids": sorted(ids), "external_ids": sorted(external_ids)}
        rows = [dict(row) for row in await session.fetch(queries.LOCK_TASKS, of_actor | named)]
    new_ids = sorted(row["id"] for row in allotted if row["id"] is not None)
    return Workspace(actor.user_id, rows, new_ids=new_ids, now=allotted[0]["now"])


async def _write(session: Session, actor: Actor, workspace: Workspace) -> None:
    """Bring the database to where the workspace is. Raises `Unauthenticated`."""
    of_actor = values_of_actor(actor)
    is_guarded = False
    for statement, values, tasks in _steps(workspace):
        if len(await session.fetch(statement, of_actor | values)) != tasks:
            raise Unauthenticated
        is_guarded = True
    if not is_guarded:
        await ensure_credential_is_live(session, actor)


def _steps(workspace: Workspace) -> Iterator[tuple[Statement, dict[str, Any], int]]:
    """What is to be written, in order: statements with their values, and how many tasks each."""
    of_row = workspace.characters_of

    def of_change(change: Change) -> int:
        return of_row(change[1])

    for statement, ids in (
        (queries.DELETE_TASKS, workspace.removed),
        (queries.RELEASE_EXTERNAL_IDS, workspace.handed_over),
    ):
        if ids:
            yield statement, {"ids": ids}, len(ids)
    texts, others = _parted(workspace.changed)
    for statement, changes in ((queries.UPDATE_OTHERS, others), (queries.UPDATE_TEXTS, texts)):
        for some in _portions(changes, of_change):
            yield statement, {"rows": queries.differences_of(some)}, len(some)
    for created in _portions(workspace.created, of_row):
        yield queries.INSERT_TASKS, {"rows": queries.rows_of(created)}, len(created)


def _parted(changed: Sequence[Change]) -> tuple[list[Change], list[Change]]:
    """The changes of what the search looks at, and the others."""
    texts: list[Change] = []
    others: list[Change] = []
    for before, after in changed:
        same = all(after[name] is before[name] for name in queries.TEXTS)
        (others if same else texts).append((before, after))
    return texts, others


def _portions(tasks: Sequence[T], characters_of: Callable[[T], int]) -> Iterator[list[T]]:
    """The tasks in lists that one statement each writes well within its time."""
    portion: list[T] = []
    characters = 0
    for task in tasks:
        portion.append(task)
        characters += characters_of(task)
        if characters >= CHARACTERS_AT_ONCE:
            yield portion
            portion, characters = [], 0
    if portion:
        yield portion


def _blame(error: APIError, index: int, operation: Operation, *, atomic: bool) -> None:
    """Let the error's fields be those of the operation.

    An error that blames no field is given one if the batch is atomic: nothing else would tell which
    operation it was.
    """
    path = f"body.operations[{index}]"
    part = "task" if isinstance(operation, CreateOperation) else "changes"
    for fault in error.errors:
        fault.field = f"{path}.{part}{fault.field.removeprefix('body')}"
    if error.errors or not atomic:
        return
    field, code = _CULPRITS[type(error)]
    error.errors = [FieldError(field=f"{path}.{field}", message=error.message, code=code)]


_CULPRITS: dict[type[APIError], tuple[str, FieldErrorCode]] = {
    TaskNotFound: ("id", "invalid"),
    VersionConflict: ("version", "incorrect"),
}


def _failed(index: int, error: APIError) -> OperationResult:
    told = OperationError(code=error.code, message=error.message)
    if error.errors:
        told.errors = error.errors
    return OperationResult(index=index, status=error.status, error=told)
