"""Whether the process runs, and whether it can work."""

from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field

from app.core.errors import (
    DatabaseUnavailable,
    InternalError,
    ShuttingDown,
    document_errors,
)
from app.core.lifecycle import lifecycle_of
from app.core.responses import Envelope, ReadModel
from app.db.session import get_database

# Probes go past the strict route: what they send beyond their path does not matter.
NOT_HTTP: dict[int | str, dict[str, Any]] = {
    400: {
        "description": "The request is not HTTP, says the parser, outside of the envelope",
        "content": {
            "text/plain": {
                "schema": {"type": "string", "const": "Invalid HTTP request received."},
            }
        },
    }
}
router = APIRouter(
    prefix="/health",
    tags=["health"],
    responses={**NOT_HTTP, **document_errors(InternalError)},
)


class Liveness(ReadModel):
    """Said by a process that runs."""

    status: Literal["healthy"] = Field(description="Always the same.", examples=["healthy"])


class LivenessResponse(Envelope[Liveness]):
    """The process runs."""


class Readiness(ReadModel):
    """Said by a process that can work."""

    status: Literal["ready"] = Field(description="Always the same.", examples=["ready"])
    database: Literal["connected"] = Field(
        description="That the database has just answered.", examples=["connected"]
    )


class ReadinessResponse(Envelope[Readiness]):
    """The process can work."""


@router.get("", summary="Is the process alive?")
async def read_liveness() -> LivenessResponse:
    """For a liveness probe: says that the process runs, and touches no database."""
    return LivenessResponse(data=Liveness(status="healthy"))


@router.get(
    "/ready",
    summary="Can the service work?",
    responses=document_errors(DatabaseUnavailable, ShuttingDown),
)
async def read_readiness(request: Request) -> ReadinessResponse:
    """For a readiness probe: asks the database, and gives up on it within two seconds.

    Before the process stops, it says so for some seconds, while it still answers everything.
    """
    if not lifecycle_of(request.scope.get("state", {})).is_ready:
        raise ShuttingDown
    if not await get_database(request).is_ready():
        raise DatabaseUnavailable
    return ReadinessResponse(data=Readiness(status="ready", database="connected"))
