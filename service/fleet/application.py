"""The application of Ray Serve, which `serve.yaml` beside it deploys: replicas, each the whole service with an engine.

    client -> Serve's proxy (`retries`) -> replica: FastAPI app, engine
                                             |  health, load (`replica`), metrics (`told`)
                                             v
              Serve's controller: starts, drains and replaces replicas, as many as `scaling` says

A replica's settings are the NER_* variables of its process: those of the machine, and those that the YAML adds. Where
they change, Serve starts replicas with the new ones and drains the old. This file alone imports Ray.
"""

from __future__ import annotations

import math

import ray
from fastapi import FastAPI
from ray import serve
from ray.serve.metrics import Gauge

from service.api.server import share_the_interpreter
from service.api.state import Service
from service.fleet import replica
from service.fleet.told import ReplicaMetrics
from service.logs import start_logging
from service.settings import read_settings


def build_app() -> FastAPI:
    """Return the app of the replica that this process is; Serve runs its lifespan. Raises BadInput."""
    settings = read_settings()
    start_logging(settings.log_level, settings.log_format)
    metrics = ReplicaMetrics(serve.get_replica_context().replica_id.unique_id, Gauge)
    app = replica.build_replica(settings, _cores(), metrics)
    share_the_interpreter()
    return app


@serve.deployment
@serve.ingress(build_app)
class Replica:
    """The service as one of many."""

    app: FastAPI  # which `serve.ingress` makes
    _load: replica.Load | None = None

    async def check_health(self) -> None:
        """Raise RuntimeError unless GET /readyz would answer 200: Serve then replaces this replica."""
        replica.check_health(self._service)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Return how busy this replica was since the last call, and its autopilot's level."""
        self._load = self._load or replica.Load(self._service, _cores())
        return self._load.look()

    @property
    def _service(self) -> Service:
        service: Service = self.app.state.service
        return service


def _cores() -> int:
    """Return how many cores Ray gave this replica: `num_cpus` of its `ray_actor_options`."""
    cpus: float = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
    return max(1, math.floor(cpus))


application = Replica.bind()  # type: ignore[attr-defined]
