"""A stepper that plays a script, a model and an executor that do, and what an engine needs around them. No test here.

A scripted sequence agrees with all earlier layers from one layer on, its script; its piece ids say which.
Requests are submitted before the worker starts, and whatever happens meanwhile happens inside a step: so nothing here
depends on timing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as Seq
from concurrent.futures import wait
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from service.engine.engine import Engine, EngineLimits, EngineObserver
from service.engine.labelled import LabelledRuns
from service.engine.reuse import Reuse, ReuseSource
from service.engine.samples import SampleRuns
from service.engine.sequence import Request, Sequence
from service.engine.shadows import Shadows
from service.executors.eager import EagerExecutor
from service.executors.pytorch import State
from service.exits.catalog import PolicyCatalog
from service.exits.policies.learned import ExitRule
from service.exits.policies.vee import Vee
from service.exits.policy import ExitPolicy
from service.exits.reading import Reading
from service.exits.words import Flags
from service.models.multi_exit import MultiExitModel
from service.models.packed import Active, Packed
from service.policy.captured import CapturedPolicy
from service.spans.types import Span
from service.stepping.stepper import Stepper
from service.text.types import EncodedText, SequenceInput
from tests.exits.strategies_ import model_of
from tests.exits.tables_ import without_tables
from tests.models_ import random_sequences

CPU = torch.device("cpu")
DEADLINE_S = 30.0  # of a test that waits for an answer which should come at once


def script(of: Sequence) -> int:
    return int(of.input.piece_ids[0])


def scripted_input(agrees_from: int, num_pieces: int = 3) -> SequenceInput:
    """One word that says at which layer its sequence begins to agree."""
    zero, one = np.zeros(1, dtype=np.int64), np.ones(1, dtype=np.int64)
    piece_ids = np.full(num_pieces, agrees_from, dtype=np.int64)
    return SequenceInput(piece_ids, np.zeros_like(piece_ids), one, one, zero, one, owned=(0, 1))


def scripted_text(*agrees_from: int, num_pieces: int = 3) -> EncodedText:
    """A text of one sequence per script, each of so many pieces."""
    return EncodedText("x", tuple(scripted_input(layer, num_pieces) for layer in agrees_from))


def scripted_request(
    *agrees_from: int, override: ExitPolicy | None = None, deadline: float = math.inf, num_pieces: int = 3
) -> Request:
    """A request of one text."""
    text = scripted_text(*agrees_from, num_pieces=num_pieces)
    changes = None if override is None else override.to_json()
    return Request((text,), deadline=deadline, submitted=0.0, override=changes)


@dataclass
class ScriptedStepper:
    """`steps` keeps the layer and the sequences of every step; `on_step` is called first of all inside each."""

    num_layers: int = 4
    on_step: Callable[[int, Seq[Sequence]], None] = lambda layer, sequences: None
    steps: list[tuple[int, list[Sequence]]] = field(default_factory=list)

    def advance(self, sequences: Seq[Sequence]) -> None:
        layer = sequences[0].layer + 1
        self.steps.append((layer, list(sequences)))
        self.on_step(layer, sequences)
        seen = [(0.0 if layer >= script(sequence) else -1.0,) * (layer - 1) for sequence in sequences]
        pairs = list(zip(sequences, seen, strict=True))
        reasons = [one.policy.decide([*one.history, evidence], self.num_layers) for one, evidence in pairs]
        for (sequence, evidence), reason in zip(pairs, reasons, strict=True):
            sequence.history.append(evidence)
            sequence.exit_reason = reason

    def read_spans(self, sequences: Seq[Sequence]) -> list[list[Span]]:
        return [[Span(0, 1, script(sequence))] for sequence in sequences]

    def layers_of(self, sequence: Sequence) -> list[int]:
        """The layers that ran over a sequence."""
        return [layer for layer, sequences in self.steps if sequence in sequences]


class TableModel:
    """In place of a MultiExitModel: its exits say what they were given, whoever else is in the step.

    readings [sequence][layer - 1] of one sequence each, whose tables are taken as scores; `inputs` are those sequences
    """

    def __init__(self, readings: Seq[Seq[Reading]]) -> None:
        first = readings[0][0]
        labels = tuple("ABCDEFGH"[: first.table.shape[1] - 1])
        self.config = SimpleNamespace(
            num_layers=len(readings[0]), nested=first.nested, labels=labels, prototypes=False, hash=None
        )
        self._scores = [[reading.table for reading in own] for own in readings]
        inputs = random_sequences([own[0].num_words[0] for own in readings])
        self.inputs = [replace(one, piece_ids=np.full(one.num_pieces, index)) for index, one in enumerate(inputs)]

    def to(self, _: torch.device) -> TableModel:
        return self

    def eval(self) -> TableModel:
        return self

    def embed(self, packed: Packed) -> Tensor:
        return packed.piece_ids[:, None]

    def run_layer(self, _: int, hidden: Tensor, packed: Packed, active: Active | None) -> Tensor:
        assert active is None
        return hidden

    def exit_scores(self, layer: int, hidden: Tensor, packed: Packed) -> tuple[Tensor, None]:
        owners = [int(rows[0]) for rows in hidden.split(packed.pieces.lengths)]
        return torch.cat([self._scores[owner][layer - 1] for owner in owners]), None

    @property
    def readings(self) -> list[list[Reading]]:
        """[sequence][layer - 1], what an executor makes of the scores."""
        words, nested = [one.num_words for one in self.inputs], self.config.nested
        return [
            [Reading(torch.log_softmax(scores, dim=1), [count], nested=nested) for scores in own]
            for count, own in zip(words, self._scores, strict=True)
        ]


class FrugalExecutor(EagerExecutor):
    """Leaves out every table that nobody asked for, as kernels do; `asked` keeps what each step asked for.

    asked  (layer, sequences, with_exit, with_table)
    """

    def __init__(self, model: MultiExitModel, device: torch.device = CPU) -> None:
        super().__init__(model, device)
        self.asked: list[tuple[int, int, bool, bool]] = []

    def run_layer(
        self,
        layer: int,
        inputs: Seq[SequenceInput],
        states: Seq[State | None],
        *,
        with_exit: bool = True,
        with_table: bool = True,
        active: Seq[Flags | None] | None = None,
        through: int | None = None,
    ) -> tuple[list[State], Reading | None]:
        self.asked.append((layer, len(inputs), with_exit, with_table))
        after, reading = super().run_layer(layer, inputs, states, with_exit=with_exit, active=active, through=through)
        if reading is None or with_table:
            return after, reading
        (bare,) = without_tables([reading])
        return after, bare


@dataclass
class Recorder:
    """An observer that keeps what it was told."""

    steps: list[tuple[int, int, int, float]] = field(default_factory=list)
    left: list[Sequence] = field(default_factory=list)
    reused: list[tuple[Sequence, ReuseSource]] = field(default_factory=list)
    queue: list[tuple[int, int]] = field(default_factory=list)

    def step_done(self, layer: int, sequences: int, pieces: int, seconds: float) -> None:
        self.steps.append((layer, sequences, pieces, seconds))

    def sequence_left(self, sequence: Sequence, num_layers: int) -> None:
        self.left.append(sequence)

    def sequence_reused(self, sequence: Sequence, source: ReuseSource) -> None:
        self.reused.append((sequence, source))

    def queue_changed(self, waiting: int, running: int) -> None:
        self.queue.append((waiting, running))


@dataclass
class Clock:
    """Monotonic seconds that pass only when told."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class LiveInTests:
    """The live policy as a function tells it; a request's own changes name a whole policy."""

    live: Callable[[], CapturedPolicy]
    catalog: PolicyCatalog

    def capture(self, override: Mapping[str, Any] | None = None) -> CapturedPolicy:
        if override is None:
            return self.live()
        return CapturedPolicy(self.catalog.policy(override), self.live().version, is_override=True)

    def renew(self, captured: CapturedPolicy, override: Mapping[str, Any] | None) -> CapturedPolicy:
        current = self.live()
        return captured if captured.version == current.version else self.capture(override)


def make_engine(
    stepper: Stepper,
    *,
    live: Callable[[], CapturedPolicy] = lambda: CapturedPolicy(Vee(), version=1),
    limits: EngineLimits = EngineLimits(),  # noqa: B008, frozen
    observer: EngineObserver | None = None,
    clock: Callable[[], float] = lambda: 0.0,
    rule: ExitRule | None = None,
    shadows: Shadows | None = None,
    reuse: Reuse | None = None,
    samples: SampleRuns | None = None,
    labelled: LabelledRuns | None = None,
    prepare: Callable[[], None] = lambda: None,
) -> Engine:
    """An engine that has not started; a request's own changes name a whole policy. rule: of learned policies."""
    catalog = PolicyCatalog(model_of(stepper.num_layers, rule))

    engine = Engine(
        stepper,
        policy=LiveInTests(live, catalog),
        limits=limits,
        observer=observer or Recorder(),
        shadows=shadows,
        reuse=reuse,
        samples=samples,
        labelled=labelled,
        prepare=prepare,
        clock=clock,
    )
    engine.forecast._pace = math.inf  # so that turns are in the order of arrival, unless a test has it otherwise
    return engine


def wait_for(requests: Iterable[Request]) -> None:
    """Return once every request has its answer, good or bad."""
    late = wait([request.future for request in requests], timeout=DEADLINE_S).not_done
    assert not late, f"{len(late)} requests were never answered"


def answered(request: Request) -> Request:
    """Return a request that has its answer; raises its error if that is one."""
    request.future.result(timeout=0)
    return request


def answer(engine: Engine, *requests: Request) -> None:
    """Submit, start, wait for every answer, close."""
    for request in requests:
        engine.submit(request)
    engine.start()
    wait_for(requests)
    engine.close()


def exit_layers(request: Request) -> list[int]:
    """Of a request that succeeded."""
    return [sequence.layer for sequence in answered(request).sequences]
