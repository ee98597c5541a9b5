"""`/metrics`: for Prometheus, with a key of the scope `read`."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from regraft_api.dependencies import Caller

router = APIRouter(tags=["health"])


@router.get(
    "/metrics",
    operation_id="getPrometheusMetrics",
    summary="Metrics of the deployment",
    response_class=Response,
    responses={
        200: {"description": "Prometheus' text format", "content": {"text/plain": {"schema": {"type": "string"}}}}
    },
)
def get_metrics(call: Caller) -> Response:
    """Queues, stages, leases, training pace, and this process's own requests."""
    return Response(generate_latest(call.context.registry), media_type=CONTENT_TYPE_LATEST)
