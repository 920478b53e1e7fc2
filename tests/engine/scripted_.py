"""A runner that plays a script, and what an engine needs around it. No test lives here.

A scripted sequence agrees with all earlier layers from one layer on, its script; its piece ids say which.
Requests are submitted before the worker starts, and whatever happens meanwhile happens inside a step: so nothing here
depends on timing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as Seq
from concurrent.futures import wait
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from service.engine.engine import Engine, EngineLimits
from service.engine.runner import Runner
from service.engine.sequence import CapturedPolicy, Request, Sequence
from service.exits.merge import policy_from_json
from service.exits.policies.vee import Vee
from service.exits.policy import Evidence, ExitPolicy
from service.spans.types import Span
from service.text.types import EncodedText, SequenceInput

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
class ScriptedRunner:
    """`steps` keeps the layer and the sequences of every step; `on_step` is called first of all inside each."""

    num_layers: int = 4
    on_step: Callable[[int, Seq[Sequence]], None] = lambda layer, sequences: None
    steps: list[tuple[int, list[Sequence]]] = field(default_factory=list)

    def run_layer(self, layer: int, sequences: Seq[Sequence]) -> list[Evidence]:
        self.steps.append((layer, list(sequences)))
        self.on_step(layer, sequences)
        return [(0.0 if layer >= script(sequence) else -1.0,) * (layer - 1) for sequence in sequences]

    def read_spans(self, sequences: Seq[Sequence]) -> list[list[Span]]:
        return [[Span(0, 1, script(sequence))] for sequence in sequences]

    def layers_of(self, sequence: Sequence) -> list[int]:
        """The layers that ran over a sequence."""
        return [layer for layer, sequences in self.steps if sequence in sequences]


@dataclass
class Recorder:
    """An observer that keeps what it was told."""

    steps: list[tuple[int, int, int, float]] = field(default_factory=list)
    left: list[Sequence] = field(default_factory=list)
    queue: list[tuple[int, int]] = field(default_factory=list)

    def step_done(self, layer: int, sequences: int, pieces: int, seconds: float) -> None:
        self.steps.append((layer, sequences, pieces, seconds))

    def sequence_left(self, sequence: Sequence, num_layers: int) -> None:
        self.left.append(sequence)

    def queue_changed(self, waiting: int, running: int) -> None:
        self.queue.append((waiting, running))


@dataclass
class Clock:
    """Monotonic seconds that pass only when told."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def make_engine(
    runner: Runner,
    *,
    live: Callable[[], CapturedPolicy] = lambda: CapturedPolicy(Vee(), version=1),
    limits: EngineLimits = EngineLimits(),  # noqa: B008, frozen
    observer: Recorder | None = None,
    clock: Callable[[], float] = lambda: 0.0,
) -> Engine:
    """An engine that has not started; a request's own changes name a whole policy."""

    def capture(override: Mapping[str, Any] | None) -> CapturedPolicy:
        if override is None:
            return live()
        return CapturedPolicy(policy_from_json(override, runner.num_layers), live().version, is_override=True)

    return Engine(runner, capture=capture, limits=limits, observer=observer or Recorder(), clock=clock)


def wait_for(requests: Iterable[Request]) -> None:
    """Return once every request has its answer, good or bad."""
    late = wait([request.future for request in requests], timeout=DEADLINE_S).not_done
    assert not late, f"{len(late)} requests were never answered"


def answer(engine: Engine, *requests: Request) -> None:
    """Submit, start, wait for every answer, close."""
    for request in requests:
        engine.submit(request)
    engine.start()
    wait_for(requests)
    engine.close()


def exit_layers(request: Request) -> list[int]:
    """Of a request that succeeded."""
    return [sequence.layer for sequence in request.future.result(timeout=0).sequences]
