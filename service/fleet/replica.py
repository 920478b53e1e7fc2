"""A replica of a fleet: the service as one of many, and how busy it is. Ray Serve, which calls this, is not known."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI

from service.api.app import create_app
from service.api.health import readiness
from service.api.keys import read_key
from service.api.server import build_service
from service.api.state import LinkToAll, Service
from service.errors import BadInput
from service.policy.lock import StateLock
from service.settings import Settings

SHORTEST_S = 0.1  # between two looks; a shorter time says nothing of how busy a replica is


def build_replica(settings: Settings, cores: int, link: LinkToAll) -> FastAPI:
    """Return the app of a replica, which is ready once its lifespan has begun.

    cores  that the replica may use, if NER_THREADS does not say how many
    link   is told the metrics

    Raises BadInput for settings with which replicas would not be one service.
    """
    if settings.processes > 1:
        raise BadInput(
            f"NER_PROCESSES={settings.processes}; expected 1: Ray Serve starts as many replicas as are needed"
        )
    if not (settings.policy_store or settings.policy_store_file):
        raise BadInput(
            "NER_POLICY_STORE is unset, so that each replica would have an exit policy of its own; name a Redis that "
            "all machines reach, such as redis://redis.example.org:6379/0"
        )
    if not read_key("NER_ADMIN_KEY", settings.admin_key, settings.admin_key_file):
        raise BadInput(
            "neither NER_ADMIN_KEY nor NER_ADMIN_KEY_FILE is set, so that each replica would make an admin key of its "
            "own; give all machines the same one"
        )
    folder, lock = take_folder(settings.state_dir)
    own = settings.model_copy(update={"state_dir": folder, "threads": settings.threads or cores})
    app = create_app(build_service(own, link=link))
    app.state.state_lock = lock  # for as long as the app is there
    return app


def take_folder(state_dir: Path) -> tuple[Path, StateLock]:
    """Return the first folder in a machine's state folder that no other replica has, and the lock that keeps it.

    So a replica that starts finds what an earlier one left: its copy of the policy, and the counts of labelled
    sentences. Raises OSError.
    """
    for number in itertools.count(1):
        folder = state_dir / f"replica-{number}"
        try:
            return folder, StateLock(folder)
        except BadInput:
            continue
    raise AssertionError


def check_health(service: Service) -> None:
    """Raise RuntimeError unless requests should be sent to this replica. To be called on the event loop."""
    service.heartbeat.beat()  # whoever calls here is the event loop
    word, is_ready = readiness(service)
    if not is_ready:
        raise RuntimeError(f"the replica is {word}; GET /readyz would answer 503")


@dataclass(frozen=True, slots=True)
class _Spent:
    """Seconds at one moment: on the clock, of the worker in steps, of the event loop's thread and of the process."""

    now: float
    worker: float
    loop: float
    process: float


class Load:
    """How busy a replica is and how far its autopilot had to go, for `service.fleet.scaling`.

    A replica is as busy as the one of three that is busiest: the engine's worker, by the time that steps take; the
    event loop, by its processor time; the process, by that of all threads over its cores. With early exit it is seldom
    the worker.
    """

    def __init__(
        self,
        service: Service,
        cores: int,
        clock: Callable[[], float] = time.monotonic,
        loop_s: Callable[[], float] = time.thread_time,
        process_s: Callable[[], float] = time.process_time,
    ) -> None:
        """cores: that the process may use; the others return seconds. To be made, and asked, on the event loop."""
        self._service = service
        self._cores = cores
        self._clock, self._loop_s, self._process_s = clock, loop_s, process_s
        self._before = self._spent()

    def look(self) -> dict[str, float]:
        """Return the share of the time since the last look that the replica was busy, and its autopilot's level."""
        before, self._before = self._before, self._spent()
        return {
            "busy": self._busy(before, self._before),
            "level": float(self._service.policy.current.level or 0),
        }

    def _busy(self, before: _Spent, spent: _Spent) -> float:
        seconds = spent.now - before.now
        if seconds < SHORTEST_S:
            return 0.0
        busiest_s = max(
            spent.worker - before.worker, spent.loop - before.loop, (spent.process - before.process) / self._cores
        )
        return min(1.0, busiest_s / seconds)

    def _spent(self) -> _Spent:
        return _Spent(self._clock(), self._service.traffic.busy_s, self._loop_s(), self._process_s())
