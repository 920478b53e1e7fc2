"""Runs evaluations from a stored model and annotated files to their result. Nothing is parsed or printed here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from service.assets import hashed_layers
from service.data.readers import read_examples
from service.errors import BadInput, DataRefused
from service.evaluation.calibrate import calibrate
from service.evaluation.cost import CostMeter
from service.evaluation.evaluate import Evaluation, encode_examples, evaluate
from service.evaluation.replay import Replay, Replayer
from service.evaluation.run_policy import PolicyRun, evaluate_policy
from service.evaluation.sweep_runs import sweep_runs
from service.evaluation.trace import Trace, trace
from service.executors.choose import make_executor
from service.executors.executor import Executor
from service.exits.operating_points import Calibration
from service.exits.policy import ExitPolicy
from service.models.device import use_threads
from service.models.store import StoredModel, find_model, load_model, write_operating_points


@dataclass(frozen=True, slots=True)
class ExecutorChoice:
    """Says which executor is to run a model, on which device, and on how many threads of a CPU (0: one a core).

    instructions: see `make_executor`
    """

    name: str = "auto"
    device: str = "auto"
    threads: int = 0
    instructions: str = "auto"

    @contextmanager
    def running(self, stored: StoredModel) -> Iterator[Executor]:
        """Make the executor, and close it in the end. Raises BadInput for one that cannot run the model here."""
        threads = use_threads(self.threads)
        executor = make_executor(
            self.name, stored.model, device=self.device, threads=threads, instructions=self.instructions
        )
        try:
            yield executor
        finally:
            executor.close()


@dataclass(frozen=True, slots=True, eq=False)
class PolicyResult:
    """Holds a policy, and what it gives on annotated texts."""

    policy: ExitPolicy
    figures: Replay | PolicyRun

    def to_json(self) -> dict[str, Any]:
        """Return the policy's parameters and its figures as plain JSON types."""
        return {**self.policy.to_json(), **self.figures.to_json()}


@dataclass(frozen=True, slots=True)
class Compared:
    """Names a calibrated model, by folder or name, for a report, with its dev file and its test file."""

    model: str
    dev: Path
    test: Path


def evaluate_exits(stored: StoredModel, file: Path, choice: ExecutorChoice, *, split: bool = True) -> Evaluation:
    """Score every exit on an annotated file; `split=False` takes every text as one sentence."""
    word_layers = None if stored.config.hash is None else hashed_layers(stored.model).of
    with choice.running(stored) as executor:
        return evaluate(executor, stored.text_encoder, read_examples(file), split=split, word_layers=word_layers)


def evaluate_exit_policy(
    stored: StoredModel, file: Path, policy: ExitPolicy, choice: ExecutorChoice, *, split: bool = True
) -> PolicyResult:
    """Score a policy on an annotated file: by replay where a trace suffices, which is much faster, else by a run."""
    examples = read_examples(file)
    with choice.running(stored) as executor:
        if policy.is_replayable:
            replayer = Replayer(trace(stored, examples, file.name, executor, split=split))
            return PolicyResult(policy, replayer.replay(policy))
        return PolicyResult(policy, evaluate_policy(executor, stored.text_encoder, examples, policy, split=split))


def trace_file(stored: StoredModel, file: Path, choice: ExecutorChoice) -> Trace:
    """Run an annotated file to full depth, and keep what every exit says."""
    _check_early_exits(stored)
    examples = read_examples(file)
    with choice.running(stored) as executor:
        return trace(stored, examples, file.name, executor)


def traced_model(traced: Trace, path: Path, store: Path, model: str | None = None) -> StoredModel:
    """Load the model of a trace file; `model` names it where the store has no such name.

    Raises DataRefused where the model has other weights than those that were traced.
    """
    stored = load_model(find_model(model or traced.model, store))
    if stored.weights_sha256 != traced.weights_sha256:
        raise DataRefused(f"{path} is a trace of other weights than {stored.folder} has; trace again")
    return stored


def replay_trace(traced: Trace, policy: ExitPolicy) -> PolicyResult:
    """Let a policy decide over a trace. Raises BadInput for a strategy that no trace can replay."""
    if not policy.is_replayable:
        raise BadInput(
            f"strategy {policy.strategy} needs more than a trace keeps; run it: `python -m service evaluate MODEL FILE "
            "--exit-policy JSON`"
        )
    return PolicyResult(policy, Replayer(traced).replay(policy))


def calibrate_model(stored: StoredModel, file: Path, choice: ExecutorChoice) -> Calibration:
    """Sweep every strategy on dev data, time them here, and write the operating points into the model's folder.

    Raises BadInput for a model with a hash, and for a token classifier, which has no early exits.
    """
    _check_early_exits(stored)
    if stored.config.hash is not None:
        raise BadInput(
            f"{stored.reference} was trained under a hash, which leaves nothing to calibrate: use it as it is"
        )
    examples = read_examples(file)
    texts = encode_examples(stored.text_encoder, examples)
    sequences = [sequence for text in texts for sequence in text.sequences]
    command = f"python -m service calibrate {stored.config.name} DATA/{file.name}"
    with choice.running(stored) as executor:
        traced = trace(stored, examples, file.name, executor)
        meter = CostMeter(executor, sequences)
        provenance = {"command": command, **executor.describe(), "batch": 1}
        runs = partial(sweep_runs, stored, executor, examples, sequences)
        calibration = calibrate(traced, meter, provenance, runs)
    write_operating_points(stored.folder, calibration.to_json())
    return calibration


def _check_early_exits(stored: StoredModel) -> None:
    if not stored.config.has_early_exits:
        raise BadInput(
            f"{stored.folder} is a token classifier of Transformers, which has no exits to compare; "
            f"`python -m service distil` makes a model that has some"
        )


def report_on(compared: Sequence[Compared], output: Path, store: Path, choice: ExecutorChoice) -> Path:
    """Study each model on its test data, and write a report on all of them into `output`; return its page."""
    from service.evaluation.report import report  # imported here because it loads matplotlib
    from service.evaluation.study import study

    studies = []
    for one in compared:
        stored = load_model(find_model(one.model, store))
        with choice.running(stored) as executor:
            studies.append(study(stored, one.model, one.dev, one.test, executor))
    return report(studies, output)
