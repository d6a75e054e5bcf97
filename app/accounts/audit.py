"""The trail of what happened to accounts and credentials, as structured log events.

Each line has the request's id and the client's address from `RequestMiddleware`, and the account's
id. No line has a name that somebody typed: people type passwords into the wrong field.
"""

import logging
from typing import Literal, get_args

import structlog
from sqlalchemy.event import listen
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from app.core.metrics import AUDIT_EVENTS

AuditEvent = Literal[
    "account_registered",
    "account_changed",
    "account_closed",
    "account_activated",
    "account_deactivated",
    "password_changed",
    "password_refused",
    "login",
    "login_failed",
    "login_limited",
    "credential_revoked",
    "api_key_created",
    "api_key_deleted",
]

EVENTS = {event: AUDIT_EVENTS.labels(event) for event in get_args(AuditEvent)}

# The trail is there at every level.
log = structlog.wrap_logger(
    None,
    wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    logger_factory_args=("taskflow.audit",),
)


def audit(event: AuditEvent, *, user_id: int | None, credential_id: int | None = None) -> None:
    """Write one line. `user_id` is None where no account is known, as after an unknown name."""
    EVENTS[event].inc()
    facts = {} if credential_id is None else {"credential_id": credential_id}
    log.info(event, user_id=user_id, **facts)


def audit_when_committed(
    session: AsyncSession, event: AuditEvent, *, user_id: int, credential_id: int | None = None
) -> None:
    """Write the line when the session's transaction is committed, and not if it is rolled back."""

    def write(_: Session) -> None:
        audit(event, user_id=user_id, credential_id=credential_id)

    listen(session.sync_session, "after_commit", write, once=True)
