"""The object that the routes work with; it is built at the start and handed to the app."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from fastapi import Request

from service.api.keys import Keys
from service.api.streams import Streams
from service.api.tracing import Tracing, Untraced
from service.autopilot.pilot import Autopilot
from service.autopilot.traffic import Traffic
from service.engine.cutter import Cutter
from service.engine.engine import Engine
from service.engine.labelled import LabelledRuns
from service.engine.samples import SampleRuns
from service.levels.fits import FitKeeper, SampleRecorder
from service.levels.keeper import PromiseKeeper
from service.levels.labels import GoldKeeper, GoldLevels
from service.levels.on_traffic import TrafficLevels
from service.metrics import Metrics
from service.models.config import ModelConfig
from service.policy.follower import PolicyFollower
from service.policy.live import LivePolicy
from service.settings import Settings
from service.text.encoder import TextEncoder

LOOP_STUCK_S = 5.0  # without a turn of the event loop, which takes ten a second when it is well


@dataclass(slots=True)
class Heartbeat:
    """When the event loop of the main port took a turn last. Without a beat, there is no such loop, as in tests."""

    clock: Callable[[], float] = time.monotonic
    _last: float | None = field(default=None, init=False)

    def beat(self) -> None:
        """Note that the event loop takes a turn."""
        self._last = self.clock()

    @property
    def is_stuck(self) -> bool:
        """Whether the event loop has taken no turn for LOOP_STUCK_S."""
        return self._last is not None and self.clock() - self._last > LOOP_STUCK_S


class LinkToAll(Protocol):
    """To what has the metrics of all serving processes, or of all replicas of a fleet."""

    def start(self, describe: Callable[[], dict[str, Any]]) -> None:
        """Begin to tell what `describe` returns, see `service.api.health.described`."""

    def close(self) -> None:
        """Tell no more."""

    def metrics(self) -> bytes:
        """Return the metrics in Prometheus' text format. Raises OSError if nobody answers."""


@dataclass(slots=True)
class Service:
    """Everything that a running service consists of.

    card         the model's card, in Markdown
    levels       what samples of the traffic say of every operating point
    samples      the samples that wait; None where nothing is sampled
    keeper       keeps what is promised
    gold         what labelled sentences say of every operating point
    labelled     the labelled sentences that wait
    gold_keeper  saves what was counted of them
    recorder     keeps numbers of the latest samples
    fit_keeper   puts operating points in force that were fitted to the traffic
    environment  device, dtype, executor, threads and versions, as GET /info shows them
    follower     follows the policy that replicas share; None where this server has it for itself
    link         to what has the metrics of all, where this is one of several; None where it is the only one
    tracing      is told of requests that are answered
    streams      the streams of lines that are open
    is_draining  whether SIGTERM or SIGINT has come
    """

    settings: Settings
    config: ModelConfig
    card: str
    text_encoder: TextEncoder
    engine: Engine
    policy: LivePolicy
    metrics: Metrics
    keys: Keys
    traffic: Traffic
    autopilot: Autopilot
    levels: TrafficLevels
    samples: SampleRuns | None
    keeper: PromiseKeeper
    gold: GoldLevels
    labelled: LabelledRuns
    gold_keeper: GoldKeeper
    recorder: SampleRecorder
    fit_keeper: FitKeeper
    environment: dict[str, Any] = field(default_factory=dict)
    follower: PolicyFollower | None = None
    link: LinkToAll | None = None
    tracing: Tracing = field(default_factory=Untraced)
    cutter: Cutter = field(default_factory=Cutter)
    heartbeat: Heartbeat = field(default_factory=Heartbeat)
    is_draining: bool = False
    streams: Streams = field(init=False)

    def __post_init__(self) -> None:
        self.streams = Streams(self.settings.queue_bytes)

    @property
    def model_reference(self) -> str:
        """The model as name@version."""
        return f"{self.config.name}@{self.config.version}"


def service_of(request: Request) -> Service:
    """Return the service that an HTTP request reached."""
    service: Service = request.app.state.service
    return service
