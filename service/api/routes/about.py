"""What runs here: the model, the machine, the metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from service.api.errors import described
from service.api.keys import require_read
from service.api.state import service_of

router = APIRouter()


@router.get("/models", responses=described(401), dependencies=[Depends(require_read)])
async def models(request: Request) -> list[dict[str, Any]]:
    """The model being served, with its card: what it was trained on and what that allows."""
    service = service_of(request)
    config = service.config
    return [
        {
            "name": config.name,
            "version": config.version,
            "labels": list(config.labels),
            "nested": config.nested,
            "num_layers": config.num_layers,
            "hidden_size": config.encoder.hidden_size,
            "strategies": service.controls.catalog.strategies,
            "card": service.card,
        }
    ]


@router.get("/info", responses=described(401), dependencies=[Depends(require_read)])
async def info(request: Request) -> dict[str, Any]:
    """Device, executor, limits and versions."""
    service = service_of(request)
    limits = (
        *("max_body_bytes", "max_text_chars", "max_texts", "queue_texts", "queue_tokens", "queue_bytes", "timeout_ms"),
        *("max_connections", "client_timeout_s"),
    )
    return {
        "model": service.model_reference,
        **service.environment,
        "limits": {name: getattr(service.settings, name) for name in limits},
    }


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Prometheus exposition."""
    service = service_of(request)
    observed = service.controls.describe()["observed"]["average_exit_layer"]
    disagreement = service.controls.disagreement()
    service.metrics.engine.set_health(is_up=service.engine.is_alive, step_age_s=service.engine.step_age_s())
    service.metrics.policy.set_observed(
        speedup_layers=service.config.num_layers / observed if observed else None,
        disagreement_bound=disagreement.interval[1] if disagreement.runs else None,
    )
    return Response(service.metrics.render(), media_type=CONTENT_TYPE_LATEST)
