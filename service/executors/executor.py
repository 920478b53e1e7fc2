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
    """Runs one layer over some sequences at a time.

    A sequence's numbers do not depend on who else is in a step.

    config           of the model
    max_step_pieces  pieces of a step beyond which a larger one is no faster per piece
    """

    config: ModelConfig
    max_step_pieces: int

    def run_layer(
        self,
        layer: int,
        inputs: Sequence[SequenceInput],
        states: Sequence[State | None],
        *,
        with_exit: bool = True,
        with_table: bool = True,
        active: Sequence[Flags | None] | None = None,
    ) -> tuple[list[State], Reading | None]:
        """Layer `layer`, from 1, and the exit after it; -> the states after the layer, and what the exit said.

        states      as the layer before gave them, which are left as they were; None before layer 1
        with_exit   whether the exit runs at all
        with_table  whether somebody will look at the table itself, not only at its summary and candidates
        active      per sequence, (words,) which of its words move; None: all, as they have to in layer 1. Those that
                    are halted are keys and values as their state says. Of two such words the exit's cell stays what it
                    was after the layer before, unless the model has one exit, which is asked once
        """

    def wait(self) -> None:
        """Return once what was asked for is done; for whoever measures time."""

    def describe(self) -> dict[str, str | int]:
        """What measured times hold for: device, dtype, executor, threads."""

    def close(self) -> None:
        """Give back threads and memory; nothing may be run afterwards."""
