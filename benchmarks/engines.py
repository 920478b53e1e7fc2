"""Shared by the benchmarks of the engine: an engine in this process, as the server builds it, and its policies."""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from service.assets import assets_of
from service.data.readers import read_examples
from service.engine.engine import Engine, EngineLimits
from service.engine.reuse import Reuse, ReuseSource
from service.engine.sequence import Sequence
from service.executors.choose import make_executor
from service.executors.executor import Executor
from service.exits.operating_points import PRESETS, Calibration
from service.exits.policy import ExitPolicy
from service.models.device import available_cores, use_threads
from service.models.multi_exit import MultiExitModel
from service.models.store import StoredModel, find_model, load_model
from service.policy.captured import CapturedPolicy
from service.stepping.stepper import ModelStepper
from service.text.types import EncodedText


class Silent:
    """An observer that ignores every event."""

    def step_done(self, layer: int, sequences: int, pieces: int, seconds: float) -> None:
        """Ignore it."""

    def sequence_left(self, sequence: Sequence, num_layers: int) -> None:
        """Ignore it."""

    def sequence_reused(self, sequence: Sequence, source: ReuseSource) -> None:
        """Ignore it."""

    def queue_changed(self, waiting: int, running: int) -> None:
        """Ignore it."""


class PolicyInForce:
    """Gives requests the policy in force; benchmarks change it between requests."""

    def __init__(self, policy: ExitPolicy) -> None:
        self.policy = policy

    def capture(self, _: object = None) -> CapturedPolicy:
        """See `service.engine.engine.PolicySource`."""
        return CapturedPolicy(self.policy, version=1)

    def renew(self, captured: CapturedPolicy, _: object) -> CapturedPolicy:
        """See `service.engine.engine.PolicySource`."""
        return captured


def load(reference: str, store: Path) -> StoredModel:
    """Load a model on one thread, as the server does: OpenMP serves the first thread that asks for a team best."""
    use_threads(1)
    return load_model(find_model(reference, store))


def add_executor(parser: argparse.ArgumentParser) -> None:
    """Add the options that `executor_of` reads."""
    parser.add_argument("--executor", default="auto", help="auto, cuda, eager or fused; auto as the server chooses")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as the cgroup's quota allows")
    parser.add_argument(
        "--instructions", default="auto", help="that kernels on a CPU use, such as avx2; auto: the fastest there are"
    )


def executor_of(options: argparse.Namespace, model: MultiExitModel) -> Executor:
    """Return the executor that the options ask for."""
    return make_executor(options.executor, model, threads=options.threads, instructions=options.instructions)


def start_engine(executor: Executor, in_force: PolicyInForce, reuse: Reuse | None = None) -> Engine:
    """Return a started engine on a model from `load`: its worker is the first thread to ask for a team.

    Without `reuse` every text runs, also one that is asked for twice at a time.
    """
    engine = Engine(
        ModelStepper(executor),
        policy=in_force,
        limits=EngineLimits(max_step_pieces=executor.max_step_pieces),
        observer=Silent(),
        reuse=reuse,
        prepare=lambda: use_threads(available_cores()),
    )
    engine.start()
    return engine


def policies_of(stored: StoredModel) -> tuple[Calibration, dict[str, ExitPolicy]]:
    """Return a model's calibration, and by name full depth, its presets and the static cuts."""
    if stored.operating_points is None:
        raise SystemExit(f"{stored.reference} is not calibrated")
    assets = assets_of(stored.model)
    calibration = Calibration.from_json(stored.operating_points, assets)
    catalog = calibration.catalog(assets)
    policies = {"full_depth": catalog.policy({"strategy": "full_depth"})}
    for preset in PRESETS:
        policies[preset] = catalog.policy(calibration.choose("preset", preset).parameters)
    for layer in range(1, assets.num_layers):
        policies[f"budgeted {layer}"] = catalog.policy({"strategy": "budgeted", "layer": layer})
    return calibration, policies


def draw_texts(stored: StoredModel, file: Path, count: int) -> list[EncodedText]:
    """Return texts of an annotated file, drawn at random with a fixed seed and split as the server splits them."""
    examples = read_examples(file)
    drawn = random.Random(0).sample(examples, min(count, len(examples)))
    return stored.text_encoder.encode_batch([example.text for example in drawn])
