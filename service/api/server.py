"""`serve`: from settings to a listening server. One process per model and device."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import platform
import resource
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from types import FrameType
from typing import Any, cast

import fastapi
import torch
import uvicorn

from service import __version__
from service.api.app import create_app
from service.api.connections import Connection, Connections
from service.api.keys import Keys, load_admin_key
from service.api.state import Service
from service.autopilot.pilot import Autopilot
from service.autopilot.traffic import Traffic
from service.engine.controls import Controls
from service.engine.engine import Engine, EngineLimits
from service.engine.runner import ModelRunner
from service.engine.sequence import CapturedPolicy, Request, Sequence
from service.engine.shadows import Shadows
from service.errors import BadInput, EngineFailed
from service.executors.choose import make_executor
from service.exits.operating_points import Calibration
from service.exits.policies.vee import Vee
from service.logs import log_as_json
from service.metrics import Metrics
from service.models.device import available_cores, use_threads
from service.models.store import find_model, load_model
from service.settings import Settings, read_settings
from service.text.encoder import TextEncoder

log = logging.getLogger("service")

BACKLOG = 2_048  # connections that the system accepts ahead of us, and that may all turn up at once
SPARE_FILES = 64  # for everything that is no connection
WARM_UP_TEXTS = ("Warm up.", "Ada Lovelace worked with Charles Babbage in London. " * 4)


def serve(process_started: float) -> None:
    """Serve until SIGTERM or SIGINT. `process_started`: monotonic seconds, for the time to ready."""
    log_as_json()
    settings = read_settings()
    if (workers := os.environ.get("WEB_CONCURRENCY", "").strip()) not in ("", "1"):
        raise BadInput(
            f"WEB_CONCURRENCY is {workers!r}; expected one worker, since the exit policy and the metrics live in one "
            "process per model and device: unset it, and start further instances on other ports instead, each with a "
            "NER_STATE_DIR of its own"
        )
    service = build_service(settings)
    Server(service, process_started).run()
    if service.engine.has_failed:
        raise EngineFailed("the engine failed too often, or hung, and the server ended; the log says which")


def _max_connections(wanted: int) -> int:
    """As many as wanted, or as the process may have files open; its own limit is raised for them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + BACKLOG + SPARE_FILES
    if soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    possible = max(soft // 2, soft - BACKLOG - SPARE_FILES)
    if possible < wanted:
        advice = "raise the limit of open files (ulimit -Hn), or lower NER_MAX_CONNECTIONS"
        log.warning("fewer connections", extra={"data": {"wanted": wanted, "possible": possible, "advice": advice}})
    return min(wanted, possible)


def build_service(settings: Settings) -> Service:
    """Load the model, warm it up, and put everything together; the engine is started by the app."""
    threads = settings.threads or available_cores()
    use_threads(1)  # OpenMP serves the first thread that asks for a team far better than any later one: the worker's
    stored = load_model(find_model(settings.model, settings.model_store))
    config = stored.config
    executor = make_executor(settings.executor, stored.model, device=settings.device, threads=threads)
    device = executor.describe()
    environment = {
        **device,
        "versions": {
            "service": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "fastapi": fastapi.__version__,
        },
    }
    build = {
        "version": __version__,
        "torch": torch.__version__,
        "device": str(device["device"]),
        "dtype": str(device["dtype"]),
    }
    calibration = None
    if stored.operating_points is not None:
        calibration = Calibration.from_json(stored.operating_points, config.num_layers)
        environment["calibration"] = dict(calibration.provenance)
        _compare(calibration.provenance, device)
    metrics = Metrics(stored.reference, config.num_layers, config.labels, build)
    metrics.set_queue_capacity(settings.queue_texts)
    try:
        controls = Controls(
            model=stored.reference,
            num_layers=config.num_layers,
            calibration=calibration,
            state_dir=settings.state_dir,
            now=lambda: datetime.now(UTC),
            on_change=metrics.policy_changed,
        )
        admin_key, key_file = load_admin_key(settings.admin_key, settings.state_dir)
    except OSError as error:
        raise BadInput(
            f"NER_STATE_DIR={str(settings.state_dir)!r} cannot be used: {error}; name a folder that can be written to"
        ) from error
    if key_file is not None:
        log.info("admin key", extra={"data": {"file": str(key_file.resolve())}})
    runner = ModelRunner(executor)
    max_step_pieces = settings.max_step_tokens or executor.max_step_pieces
    limits = EngineLimits(settings.queue_texts, settings.queue_tokens, max_step_pieces)

    def prepare() -> None:
        use_threads(threads)
        _warm_up(stored.text_encoder, runner)

    traffic = Traffic(time.monotonic)
    observer = _Observer(metrics, controls, traffic)
    shadows = Shadows(settings.shadow_fraction, observer.shadow_done)
    engine = Engine(
        runner, capture=controls.capture, limits=limits, observer=observer, shadows=shadows, prepare=prepare
    )
    autopilot = Autopilot(controls, traffic, engine.load, time.monotonic)
    keys = Keys(settings.api_key, admin_key)
    return Service(
        settings,
        config,
        stored.card,
        stored.text_encoder,
        engine,
        controls,
        metrics,
        keys,
        traffic,
        autopilot,
        environment,
    )


def _compare(provenance: Mapping[str, object], device: Mapping[str, object]) -> None:
    """Say so when the operating points hold for something else than what runs here."""
    measured = {name: provenance.get(name) for name in ("device", "dtype", "executor")}
    here = {name: device[name] for name in measured}
    if measured != here:
        advice = "presets keep their meaning, but expected figures may not: `python -m service calibrate`"
        log.warning("calibrated elsewhere", extra={"data": {"on": measured, "here": here, "advice": advice}})


def _warm_up(text_encoder: TextEncoder, runner: ModelRunner) -> None:
    """Run every layer and exit once, so that the first request does not pay for what happens only once."""
    request = Request(tuple(text_encoder.encode_batch(WARM_UP_TEXTS)), deadline=0.0, submitted=0.0, wants_trace=True)
    request.captured = CapturedPolicy(Vee(), version=0)
    sequences = [Sequence(request, sequence) for text in request.texts for sequence in text.sequences]
    for layer in range(1, runner.num_layers + 1):
        for sequence, evidence in zip(sequences, runner.run_layer(layer, sequences), strict=True):
            sequence.history.append(evidence)
    runner.read_spans(sequences)


class _Observer:
    """Tells metrics, controls and the autopilot's traffic what the engine did."""

    def __init__(self, metrics: Metrics, controls: Controls, traffic: Traffic) -> None:
        self._metrics = metrics
        self._controls = controls
        self._traffic = traffic
        self.queue_changed = metrics.queue_changed

    def step_done(self, layer: int, sequences: int, pieces: int, seconds: float) -> None:
        self._metrics.step_done(layer, sequences, pieces, seconds)
        self._traffic.step_done(seconds)

    def shadow_done(self, captured: CapturedPolicy, disagrees: bool) -> None:
        self._metrics.shadow_done(disagrees)
        self._controls.observe_shadow(captured, disagrees)

    def sequence_left(self, sequence: Sequence, num_layers: int) -> None:
        self._metrics.sequence_left(sequence, num_layers)
        self._traffic.sequence_left(sequence.input.num_pieces)
        if sequence.request.captured is not None:
            self._controls.observe(sequence.request.captured, sequence.layer)


class Server(uvicorn.Server):
    """uvicorn that says when it is ready, bounds its connections, and goes on answering for a while after the first
    signal."""

    def __init__(self, service: Service, process_started: float) -> None:
        settings = service.settings
        self._service = service
        self._process_started = process_started
        self._connections = Connections(
            service.metrics,
            limit=_max_connections(settings.max_connections),
            max_bytes=settings.queue_bytes,
            client_timeout_s=settings.client_timeout_s,
        )
        self._protocol = partial(Connection, self._connections)
        config = uvicorn.Config(
            create_app(service),
            host=settings.host,
            port=settings.port,
            root_path=settings.root_path,
            http=cast("Any", self._protocol),  # a class to uvicorn, which only calls it
            ws="none",
            workers=1,
            log_config=None,
            access_log=False,
            backlog=BACKLOG,
            timeout_keep_alive=math.ceil(settings.client_timeout_s) + 1,  # ours comes first
            timeout_graceful_shutdown=int(settings.timeout_ms / 1_000) + 1,
            server_header=False,
        )
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, then say where and after how long."""
        await super().startup(sockets)
        if self.should_exit:  # the port was taken; uvicorn has said so
            return
        port = self.servers[0].sockets[0].getsockname()[1]
        seconds = time.monotonic() - self._process_started
        data = {
            "url": f"http://{self.config.host}:{port}",
            "model": self._service.model_reference,
            "seconds": round(seconds, 2),
        }
        log.info("ready", extra={"data": data})

    async def on_tick(self, counter: int) -> bool:
        """Cut off who is slow; end when the engine has given up, so that whoever watches starts a fresh process."""
        self._connections.cut_late()
        if self._service.engine.has_failed:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take in what the system has accepted for us, since closing the port resets it; then end."""
        accepted = [connection for server in self.servers for connection in _waiting_connections(server)]
        for server in self.servers:
            server.close()
        wiring = {"config": self.config, "server_state": self.server_state, "app_state": self.lifespan.state}
        for connection in accepted:
            await asyncio.get_running_loop().connect_accepted_socket(partial(self._protocol, **wiring), connection)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: not ready any more, still answering; the end follows after drain_s, or at a second signal."""
        if self._service.is_draining:
            self.force_exit = self.should_exit
            self.should_exit = True
            return
        self._service.is_draining = True
        drain_s = self._service.settings.drain_s
        log.info("draining", extra={"data": {"signal": signal.Signals(sig).name, "seconds": drain_s}})
        loop = asyncio.get_running_loop()
        loop.call_soon_threadsafe(loop.call_later, drain_s, self._end)

    def _end(self) -> None:
        self.should_exit = True


def _waiting_connections(server: asyncio.Server) -> Iterator[socket.socket]:
    """Connections that nobody has taken from the system yet."""
    for listening in server.sockets:
        with socket.socket(fileno=os.dup(listening.fileno())) as queue, suppress(BlockingIOError):
            while True:
                yield queue.accept()[0]
