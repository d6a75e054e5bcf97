"""Many operations in one call."""

from fastapi import APIRouter

from app.accounts.credentials import CurrentUser, requires
from app.core.errors import document_errors
from app.core.routing import API
from app.db.session import TransactionDep
from app.tasks.batch import service
from app.tasks.batch.schemas import BatchResponse, BatchResults, TaskBatch
from app.tasks.errors import (
    ExternalIdTaken,
    IdempotencyInFlight,
    IdempotencyKeyReused,
    TaskNotFound,
    VersionConflict,
)
from app.tasks.idempotency import DOCUMENTED_HEADER, REPLAYED_HEADER, IdempotentRoute


class BatchRoute(IdempotentRoute):
    maximum_body_bytes = 8 * 1024 * 1024


router = APIRouter(prefix=f"{API}/tasks", tags=["tasks"], route_class=BatchRoute)


@router.post(
    "/batch",
    summary="Run many operations",
    dependencies=[requires("tasks:write")],
    responses={
        **document_errors(
            TaskNotFound,
            ExternalIdTaken,
            IdempotencyInFlight,
            VersionConflict,
            IdempotencyKeyReused,
        ),
        200: {"headers": REPLAYED_HEADER},
    },
    openapi_extra=DOCUMENTED_HEADER,
)
async def run_batch(
    batch: TaskBatch, actor: CurrentUser, transaction: TransactionDep
) -> BatchResponse:
    """Create, change and delete up to 1,000 tasks, in order, each operation seeing those before it.

    An atomic batch (the default) is validated as a whole first, and a 400 names every invalid
    operation. Then all of it is done or nothing: a failure has the status and the `code` of the
    first operation that failed, and `errors` tells which one that was.

    With `"atomic": false` the answer is always 200, and each operation has a status of its own, as
    a call of its own would have had; those that failed, invalid ones too, have an `error`.

    With `version` an update or a delete is done only if the task has that version. The body may
    have 8 MiB, and the descriptions and metadata of the answered tasks as many characters together.
    """
    results = await service.run_batch(transaction, actor, batch)
    return BatchResponse(message="Batch done", data=BatchResults(results=results))
