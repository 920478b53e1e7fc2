"""The interface by which the engine steps passages on a device; tests put a scripted stepper in its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from service.executors.executor import Executor
from service.spans.types import Span
from service.stepping.advance import advance
from service.stepping.passage import Passage


class Stepper(Protocol):
    """The operations that the engine needs of a model on a device."""

    num_layers: int

    def advance(self, passages: Sequence[Passage]) -> None:
        """Move passages, which all stand before the same layer, through it; see `service.stepping.advance`."""

    def read_spans(self, passages: Sequence[Passage]) -> list[list[Span]]:
        """Return the spans that each passage answers if it leaves after its latest layer."""


class ModelStepper:
    """Steps through a model with an executor."""

    def __init__(self, executor: Executor) -> None:
        self.num_layers = executor.config.num_layers
        self._executor = executor

    def advance(self, passages: Sequence[Passage]) -> None:
        """Move passages through a layer, as `Stepper` says."""
        advance(self._executor, passages)

    def read_spans(self, passages: Sequence[Passage]) -> list[list[Span]]:
        """Return the spans of each passage, as `Stepper` says."""
        return [passage.decode() for passage in passages]
