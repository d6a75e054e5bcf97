"""What can go wrong with tasks."""

from app.core.errors import APIError, NotFound, PayloadTooLarge
from app.core.responses import FieldError


class TaskNotFound(APIError):
    """There is no such task, or it is another's: the two cannot be told apart."""

    status = 404
    code = "task_not_found"
    message = "Task not found"


class NoExternalId(NotFound):
    """The path holds more than an `external_id`."""

    message = "An external_id is one part of the path: percent-encode its slashes"


class ExternalIdTaken(APIError):
    status = 409
    code = "external_id_taken"
    message = "Another task has this external_id"
    example = FieldError(field="body.external_id", message=message, code="duplicate")


class VersionConflict(APIError):
    """The task is there, but not in the version that the client means."""

    status = 412
    code = "version_conflict"
    message = "The task has changed since, or is not as the condition says; read it again"


class AnswerTooLarge(PayloadTooLarge):
    """The tasks that a batch would answer with are too large together; nothing was done."""

    message = "The answer would be too large; send fewer of these operations at once"


class IdempotencyInFlight(APIError):
    """A request with the same key is still under way."""

    status = 409
    code = "idempotency_in_flight"
    message = "The first request with this Idempotency-Key is still under way; try again"

    def __init__(self) -> None:
        super().__init__(headers={"Retry-After": "1"})


class IdempotencyKeyReused(APIError):
    status = 422
    code = "idempotency_key_reused"
    message = "This Idempotency-Key was used for another request; take a new one"
