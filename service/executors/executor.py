"""What an executor is: the one thing that touches a device. Who runs, and who leaves, is decided elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from service.exits.reading import Reading
from service.exits.words import Flags
from service.models.config import ModelConfig
from service.text.types import SequenceInput

State = Any  # what an executor keeps of one sequence between its layers


class Executor(Protocol):
    """Runs one layer over some sequences at a time, which is a step.

    What it computes for a sequence does not depend on which others are in the step.

    config           describes the model
    max_step_pieces  how many pieces a step may have before a larger one takes no less time per piece
    max_step_layers  how many layers a step may have: several where asking for a step costs more than a layer
    """

    config: ModelConfig
    max_step_pieces: int
    max_step_layers: int

    def run_layer(
        self,
        layer: int,
        inputs: Sequence[SequenceInput],
        states: Sequence[State | None],
        *,
        with_exit: bool = True,
        with_table: bool = True,
        active: Sequence[Flags | None] | None = None,
        through: int | None = None,
    ) -> tuple[list[State], Reading | None]:
        """Run one layer, and the exit after it; -> every sequence's state after the layer, and what the exit said.

        layer       which one, from 1
        states      what the layer before returned for these sequences; None before layer 1. They are not changed
        with_exit   whether the exit runs; without it there is no reading
        with_table  whether somebody will look at the table itself, and not only at its summary and candidates
        active      for each sequence a flag for each of its words, (words,) bool: whether the layer moves it on. The
                    others are halted: they keep their state, which the words that move go on attending to. None, for
                    one sequence or for all: every word moves, as all have to in layer 1
        through     the last layer of a step that has several, at most max_step_layers: they run one after the other,
                    and the exit that runs is that of the last. Every word moves through all of them. None: `layer`

        The exit works out anew the cells that have a word that moves. A cell of two halted words stays what it was
        after the layer before; only in a model with one exit, which reads words of all depths, every cell is new.
        """

    def wait(self) -> None:
        """Return when all that was asked for is done; whoever measures time calls it."""

    def describe(self) -> dict[str, str | int]:
        """Say on what measured times depend: device, dtype, executor, threads, and on a CPU the instructions."""

    def close(self) -> None:
        """End the threads and free the memory; nothing may be run afterwards."""
