"""How the service is, and its metrics: what /livez, /readyz, /health and /metrics say, on whichever port."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from service.api.state import Service
from service.errors import NotReady
from service.processes.families import snapshot
from service.promise.estimates import Estimate


class Wellbeing(Protocol):
    """Says how a service is, whether it is of one process or of several."""

    def liveness(self) -> tuple[str, bool]:
        """See `liveness` below."""

    def readiness(self) -> tuple[str, bool]:
        """See `readiness` below."""

    def render_metrics(self) -> bytes:
        """See `render_metrics` below."""


@dataclass(frozen=True, slots=True)
class OfOneProcess:
    """The wellbeing of a service that is one process."""

    service: Service

    def liveness(self) -> tuple[str, bool]:
        """See Wellbeing."""
        return liveness(self.service)

    def readiness(self) -> tuple[str, bool]:
        """See Wellbeing."""
        return readiness(self.service)

    def render_metrics(self) -> bytes:
        """See Wellbeing."""
        return render_metrics(self.service)


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
    """Return the metrics in Prometheus' text format, of all serving processes if there are several.

    Raises NotReady if nobody answers for all of them just now.
    """
    if service.link is not None:
        try:
            return service.link.metrics()
        except OSError as error:
            raise NotReady(
                "the process that has the metrics of all serving processes does not answer; ask again later"
            ) from error
    update_metrics(service)
    return service.metrics.render()


def described(service: Service) -> dict[str, Any]:
    """Return what a serving process tells the one that answers for all, see `service.processes.gatherer`."""
    update_metrics(service)
    families = snapshot(service.metrics.registry, service.metrics.across)
    return {"liveness": liveness(service), "readiness": readiness(service), "families": families}


def update_metrics(service: Service) -> None:
    """Bring those metrics up to date that change without an event."""
    observed = service.policy.describe().observed.average_exit_layer
    disagreement = service.policy.disagreement()
    engine = service.engine
    service.metrics.engine.set_health(
        is_up=engine.is_alive,
        step_age_s=engine.step_age_s(),
        cache_bytes=engine.cache_bytes,
        bulk_requests=engine.bulk_requests,
    )
    service.metrics.http.set_streams(len(service.streams))
    service.metrics.policy.set_observed(
        speedup_layers=service.config.num_layers / observed if observed else None,
        disagreement_bound=disagreement.interval[1] if disagreement.runs else None,
    )
    _show_promise(service)


def _show_promise(service: Service) -> None:
    metrics, samples, standing = service.metrics.promise, service.samples, service.levels.standing()
    if samples is not None:
        metrics.set_sampling(
            probability=samples.probability,
            buffer_bytes=samples.used_bytes,
            uncovered=samples.counts.uncovered,
        )
    state = service.policy.describe()
    metrics.set_promise(
        max_disagreement=standing.certified.goal.max_disagreement if standing else None,
        certified=len(standing.certified.levels) if standing else 0,
        served_is_certified=state.is_certified is not False,
    )
    found = service.levels.measured().get(state.in_force.policy)
    metrics.set_disagreement(_disagreement(found.estimate) if found and found.estimate.samples else None)
    metrics.set_gold(
        waiting=service.labelled.waiting,
        in_force=service.gold.f1(state.in_force.policy),
        full_depth=service.gold.f1(service.policy.full_depth()),
    )


def _disagreement(estimate: Estimate) -> tuple[float, float]:
    lower, upper = estimate.agreement_interval
    return 1 - upper, 1 - lower
