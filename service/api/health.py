"""How the service is, and its metrics: what /livez, /readyz, /health and /metrics say, on whichever port."""

from __future__ import annotations

from service.api.state import Service


def liveness(service: Service) -> tuple[str, bool]:
    """Return a word and whether engine and event loop can make progress: idle ones too, but not while one is stuck."""
    is_alive = service.engine.is_alive and not service.heartbeat.is_stuck
    return ("alive" if is_alive else "stuck"), is_alive


def readiness(service: Service) -> tuple[str, bool]:
    """Return a word and whether requests should be sent here: from the end of the warm-up to the first SIGTERM."""
    if service.is_draining:
        return "draining", False
    word, is_alive = liveness(service)
    return ("ready" if is_alive else word), is_alive


def render_metrics(service: Service) -> bytes:
    """Return the metrics in Prometheus' text format, those included that change without an event."""
    observed = service.policy.describe().observed.average_exit_layer
    disagreement = service.policy.disagreement()
    engine = service.engine
    service.metrics.engine.set_health(
        is_up=engine.is_alive, step_age_s=engine.step_age_s(), cache_bytes=engine.cache_bytes
    )
    service.metrics.policy.set_observed(
        speedup_layers=service.config.num_layers / observed if observed else None,
        disagreement_bound=disagreement.interval[1] if disagreement.runs else None,
    )
    return service.metrics.render()
