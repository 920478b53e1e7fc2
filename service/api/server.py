"""The command `serve`: builds the service from its settings and runs it, one process per model and device."""

from __future__ import annotations

import gc
import logging
import os
import platform
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import fastapi
import torch

from service import __version__
from service.api.http_server import Server
from service.api.keys import Keys, load_admin_key, read_key
from service.api.listening import bind, bind_health, url_of
from service.api.nightly import Nightly, calibration_of
from service.api.policy_observer import PolicyObserver
from service.api.state import LinkToAll, Service
from service.api.tracing import tracing_of
from service.assets import assets_of
from service.autopilot.pilot import Autopilot
from service.autopilot.traffic import Traffic
from service.engine.engine import Engine, EngineLimits
from service.engine.labelled import LabelledRuns
from service.engine.reuse import AnswerCache, Reuse, ReuseSource
from service.engine.samples import SampleRun, SampleRuns
from service.engine.sequence import Sequence
from service.engine.shadows import Shadows
from service.errors import BadInput, EngineFailed
from service.executors.choose import given_up, make_executor
from service.executors.executor import Executor
from service.exits.operating_points import Calibration
from service.exits.policies import EXIT_REASONS
from service.exits.policies.full_depth import FullDepth
from service.levels.fits import FitKeeper, SampleRecorder
from service.levels.keeper import PromiseKeeper
from service.levels.labels import GoldKeeper, GoldLevels
from service.levels.on_traffic import TrafficLevels
from service.logs import start_logging
from service.metrics import Metrics
from service.metrics.engine import EngineMetrics
from service.models.device import available_cores, use_threads
from service.models.store import StoredModel, find_model, load_model
from service.policy.captured import CapturedPolicy
from service.policy.follower import PolicyFollower, Pushes
from service.policy.goals import Goals
from service.policy.live import LivePolicy
from service.policy.lock import StateLock
from service.policy.shared_folder import SharedStateFolder
from service.policy.store import PolicyStore, StateFolder, folder_of
from service.policy.traffic_fits import TrafficFitFile
from service.promise.sampling import SamplingDesign
from service.settings import Settings, read_settings
from service.stepping.advance import run
from service.stepping.inspection import inspect
from service.stepping.passage import Passage
from service.stepping.stepper import ModelStepper
from service.text.encoder import TextEncoder

log = logging.getLogger("service")

# Of threads that want the interpreter: the one for health waits for several switches a request.
SWITCH_INTERVAL_S = 0.001
# Requests leave no cycles, and seeking some among all that are open stops every thread for a twentieth of a second.
GARBAGE_THRESHOLDS = (10_000, 10, 20)

NO_EXITS = (
    "{name} is a token classifier of Transformers as it is: every sentence runs to full depth, and no policy or goal "
    "makes it faster. For a model with exits: python -m service distil CHECKPOINT --texts TEXTS --output runs/mine"
)


class Loaded(NamedTuple):
    """A model, what runs it, and what would run it faster."""

    stored: StoredModel
    executor: Executor
    given_up: str | None

    @property
    def environment(self) -> dict[str, str | int]:
        """What runs the model, as GET /info says it."""
        return {**self.executor.describe(), **({"given_up": self.given_up} if self.given_up else {})}


WARM_UP_TEXTS = ("Warm up.", "Ada Lovelace worked with Charles Babbage in London. " * 4)


def serve(process_started: float) -> None:
    """Serve until SIGTERM or SIGINT. `process_started`: monotonic seconds, from which the time to ready counts."""
    settings = read_settings()
    start_logging(settings.log_level, settings.log_format)
    if (workers := os.environ.get("WEB_CONCURRENCY", "").strip()) not in ("", "1"):
        raise BadInput(
            f"WEB_CONCURRENCY is {workers!r}; expected one worker, since processes that are started in this way share "
            "neither the exit policy nor the metrics: unset it, and set NER_PROCESSES instead"
        )
    with ExitStack() as held:
        sockets = [held.enter_context(bound) for bound in bind(settings.host, settings.port)]
        health = [held.enter_context(bound) for bound in bind_health(settings)]
        held.enter_context(_no_other_server(settings.state_dir))
        if settings.processes > 1:
            from service.processes.serving import serve_by_several  # which builds its services as here

            serve_by_several(settings, process_started, sockets, health)
            return
        service = build_service(settings)
        run_server(Server(service, process_started, health), service, sockets)


def run_server(server: Server, service: Service, sockets: list[socket.socket]) -> None:
    """Serve until a signal ends it. Raises EngineFailed if the engine did."""
    share_the_interpreter()
    with ExitStack() as held:
        if (at := service.settings.calibrate_at) and sockets:
            url = url_of(service.settings.host, sockets[0].getsockname()[1])
            held.enter_context(Nightly(at, calibration_of(url, service.keys.admin_key)))
        server.run(sockets)
    if service.engine.has_failed:
        raise EngineFailed("the engine failed too often, or hung, and the server ended; the log says which")


def share_the_interpreter() -> None:
    """Let no thread, and no collection of garbage, keep the others waiting for long."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    gc.collect()
    gc.freeze()  # the model and what is around it stay; no collection need look at them again


def load(settings: Settings, threads: int) -> Loaded:
    """Load the model, and get ready what runs it, by so many threads."""
    use_threads(1)  # OpenMP serves the first thread to ask for a team far better than others; this must be the worker
    stored = load_model(find_model(settings.model, settings.model_store))
    name, instructions = settings.executor, settings.instructions
    executor = make_executor(name, stored.model, device=settings.device, threads=threads, instructions=instructions)
    return Loaded(stored, executor, given_up(executor, name, instructions))


def build_service(settings: Settings, loaded: Loaded | None = None, link: LinkToAll | None = None) -> Service:
    """Load the model and put everything together; the app starts the engine, which warms up first.

    loaded  the model, if it was loaded before
    link    if this is one of several: to what has the metrics of all
    """
    threads = settings.threads or available_cores()
    loaded = loaded or load(settings, threads)
    stored, executor = loaded.stored, loaded.executor
    config = stored.config
    device = executor.describe()
    environment = {
        **loaded.environment,
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
    calibration, assets = None, assets_of(stored.model)
    if stored.operating_points is not None:
        calibration = Calibration.from_json(stored.operating_points, assets)
        environment["calibration"] = dict(calibration.provenance)
        _compare(calibration.provenance, device)
    if not config.has_early_exits:
        environment["note"] = NO_EXITS.format(name=stored.reference)
        log.warning("no early exits", extra={"data": {"advice": environment["note"]}})
    metrics = Metrics(
        stored.reference,
        num_layers=config.num_layers,
        entity_labels=config.labels,
        exit_reasons=EXIT_REASONS,
        build=build,
    )
    metrics.engine.set_queue_capacity(settings.queue_texts)
    policy_observer = PolicyObserver(metrics.policy)
    folder = folder_of(settings.state_dir, stored.reference)
    try:
        store, pushes = _policy_store(settings, stored.reference, is_one_of_several=link is not None)
        goals = Goals.of(stored.reference, assets, calibration, is_sampled=settings.sampled_fraction > 0)
        fit_file = TrafficFitFile(folder, f"{stored.reference} {stored.weights_sha256}", config.num_layers)
        policy = LivePolicy(
            goals.with_fits(fit_file.load()) if calibration else goals,
            store,
            now=lambda: datetime.now(UTC),
            on_change=policy_observer.policy_changed,
            on_store=policy_observer.store_used,
        )
        given = read_key("NER_ADMIN_KEY", settings.admin_key, settings.admin_key_file)
        admin_key, key_file = load_admin_key(given, settings.state_dir)
    except OSError as error:
        raise _state_unusable(settings.state_dir, error) from error
    log.info("exit policy", extra={"data": {"version": policy.current.version, "changes_kept": len(policy.history())}})
    if key_file is not None:
        log.info("admin key", extra={"data": {"file": str(key_file.resolve())}})
    max_step_pieces = settings.max_step_tokens or executor.max_step_pieces
    limits = EngineLimits(settings.queue_texts, settings.queue_tokens, max_step_pieces)

    def prepare() -> None:
        use_threads(threads)
        _warm_up(stored.text_encoder, executor)

    traffic = Traffic(time.monotonic)
    observer = _Observer(metrics.engine, policy, traffic)
    points = [policy.catalog.policy(point.parameters) for point in policy.operating_points()]
    levels = TrafficLevels(
        policy.levels(),
        policy.levels_to_certify(),
        config.num_layers,
        now=lambda: datetime.now(UTC),
        on_sample=metrics.promise.sample_run,
        on_alarm=metrics.promise.alarm_raised,
    )
    samples, recorder = None, SampleRecorder(settings.sample_records, config.num_layers)

    def sample_run(run: SampleRun) -> None:
        levels.add(run)
        recorder.add(run)

    if settings.sampled_fraction and policy.levels_to_certify():
        design = SamplingDesign(settings.sampled_fraction, settings.sample_bytes, config.text.window_pieces)
        samples = SampleRuns(design, sample_run)
    gold = GoldLevels(
        points,
        config.num_layers,
        folder,
        f"{stored.reference} {stored.weights_sha256}",
        on_sentence=metrics.promise.labelled_counted,
    )
    labelled = LabelledRuns(gold.add)
    engine = Engine(
        ModelStepper(executor),
        policy=policy,
        limits=limits,
        observer=observer,
        shadows=Shadows(settings.shadow_fraction, observer.shadow_done),
        samples=samples,
        labelled=labelled,
        reuse=Reuse(AnswerCache(settings.cache_bytes) if settings.cache_bytes else None),
        prepare=prepare,
    )
    autopilot = Autopilot(policy, traffic, engine.load, time.monotonic)
    keeper = PromiseKeeper(policy, levels, time.monotonic)
    keys = Keys(read_key("NER_API_KEY", settings.api_key, settings.api_key_file), admin_key)
    return Service(
        settings,
        config,
        stored.card,
        stored.text_encoder,
        engine,
        policy,
        metrics,
        keys,
        traffic,
        autopilot,
        levels,
        samples,
        keeper,
        gold,
        labelled,
        GoldKeeper(policy, gold),
        recorder,
        FitKeeper(policy, levels, fit_file, lambda: datetime.now(UTC)),
        environment,
        PolicyFollower(policy, pushes) if pushes is not None else None,
        link,
        tracing_of(os.environ, stored.reference),
    )


def _policy_store(settings: Settings, model: str, *, is_one_of_several: bool) -> tuple[PolicyStore, Pushes | None]:
    """Return where the policy is kept and, if replicas share it, what tells of their changes; else None.

    Raises BadInput, and OSError for a state folder that cannot be used.
    """
    url = read_key("NER_POLICY_STORE", settings.policy_store, settings.policy_store_file)
    if not url and is_one_of_several:
        shared = SharedStateFolder.within(settings.state_dir, model)
        return shared, shared
    if not url:
        return StateFolder.within(settings.state_dir, model), None
    try:
        from service.policy.redis_store import RedisStore  # here, since nobody else needs its client
    except ModuleNotFoundError as error:
        raise BadInput(
            f"NER_POLICY_STORE is set, and the package {error.name} is not installed; "
            "install requirements.txt, or unset it"
        ) from error
    store = RedisStore(url, model, StateFolder.copy_within(settings.state_dir, model))
    return store, store


@contextmanager
def _no_other_server(state_dir: Path) -> Iterator[None]:
    """Hold the state folder. Raises BadInput if another server does."""
    try:
        lock = StateLock(state_dir)
    except OSError as error:
        raise _state_unusable(state_dir, error) from error
    try:
        yield
    finally:
        lock.release()


def _state_unusable(state_dir: Path, error: OSError) -> BadInput:
    return BadInput(f"NER_STATE_DIR={str(state_dir)!r} cannot be used: {error}; name a folder that can be written to")


def _compare(provenance: Mapping[str, object], device: Mapping[str, object]) -> None:
    """Log a warning if the operating points were measured on something else than what runs here."""
    measured = {name: provenance.get(name) for name in ("device", "dtype", "executor")}
    here = {name: device[name] for name in measured}
    if measured != here:
        advice = "presets keep their meaning, but expected figures may not: `python -m service calibrate`"
        log.warning("calibrated elsewhere", extra={"data": {"on": measured, "here": here, "advice": advice}})


def _warm_up(text_encoder: TextEncoder, executor: Executor) -> None:
    """Run every layer and exit once, so that the first request does not pay for what happens only once."""
    sequences = [sequence for text in text_encoder.encode_batch(WARM_UP_TEXTS) for sequence in text.sequences]
    passages = [Passage(sequence, FullDepth(), keeps_every_exit=True) for sequence in sequences]
    for passage in run(executor, passages):
        passage.decode()
        inspect(passage)


class _Observer:
    """Tells metrics, the live policy and the autopilot's traffic what the engine did."""

    def __init__(self, metrics: EngineMetrics, policy: LivePolicy, traffic: Traffic) -> None:
        self._metrics = metrics
        self._policy = policy
        self._traffic = traffic
        self.queue_changed = metrics.queue_changed

    def step_done(self, layer: int, sequences: int, pieces: int, seconds: float) -> None:
        self._metrics.step_done(layer, sequences, pieces, seconds)
        self._traffic.step_done(seconds)

    def shadow_done(self, captured: CapturedPolicy, disagrees: bool) -> None:
        self._metrics.shadow_done(disagrees)
        self._policy.observe_shadow(captured, disagrees)

    def sequence_reused(self, sequence: Sequence, source: ReuseSource) -> None:
        self._metrics.sequence_reused(sequence, source)
        self._traffic.sequence_left(sequence.input.num_pieces)
        self._observe(sequence)

    def sequence_left(self, sequence: Sequence, num_layers: int) -> None:
        self._metrics.sequence_left(sequence, num_layers)
        self._traffic.sequence_left(sequence.input.num_pieces)
        self._observe(sequence)

    def _observe(self, sequence: Sequence) -> None:
        if sequence.request.captured is not None:
            self._policy.observe(sequence.request.captured, sequence.layers_run)
