"""`GET /metrics`, for Prometheus. The dashboard and the alerts beside this file go with it."""

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

if TYPE_CHECKING:
    from app.core.metrics import Metrics

# No part of the document: it is for operators, who can switch it off, and not for clients.
router = APIRouter(include_in_schema=False)


@router.get("/metrics")
async def read_metrics(request: Request) -> Response:
    """Every metric in Prometheus's text format, outside of the envelope. Asks no database."""
    metrics: Metrics = request.app.state.metrics
    return Response(await metrics.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)
