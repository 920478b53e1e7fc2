"""A passage: one sequence on its way through the layers under a policy. How it is advanced stands in `advance`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from service.exits.parameters import Evidence
from service.exits.policy import ExitPolicy, ExitReason
from service.exits.reading import Reading
from service.exits.words import WordProgress
from service.spans.types import Span
from service.text.types import SequenceInput


@dataclass(slots=True, eq=False)
class Passage:
    """One sequence, the policy that it is under, and what has come of it so far.

    keeps_every_exit  whether also those exits are computed, tables included, that its policy does not need: for whoever
                      looks into it afterwards
    state             what the executor keeps of it, after the last layer that ran
    readings          per layer that ran, what its exit said; None where it was not needed
    history           per layer that ran, what the policy saw
    words             how far its words have come, under a strategy that halts them one by one
    exit_reason       why it left; None while it is under way
    """

    input: SequenceInput
    policy: ExitPolicy
    keeps_every_exit: bool = False
    state: Any = None
    readings: list[Reading | None] = field(default_factory=list)
    history: list[Evidence] = field(default_factory=list)
    words: WordProgress | None = None
    exit_reason: ExitReason | None = None

    @property
    def layer(self) -> int:
        """Layers that ran; once it has left, its exit layer: a depth, from 1."""
        return len(self.history)

    @property
    def layers_run(self) -> float:
        """Layers that ran over it: its depth, or under a strategy by word the mean over its words."""
        return self.layer if self.words is None else float(self.words.layers.mean())

    @property
    def step_pieces(self) -> int:
        """What its next layer costs, in pieces that move."""
        return self.input.num_pieces if self.words is None else self.words.step_pieces(self.input)

    @property
    def seen(self) -> list[Reading]:
        """What those exits said that were computed."""
        return [reading for reading in self.readings if reading is not None]

    def decode(self) -> list[Span]:
        """Decode what it answers where it stands."""
        return self.policy.prediction(self.seen).spans[0]

    def needs_exit(self, num_layers: int) -> bool:
        """Whether the exit after its next layer must be computed."""
        return self.keeps_every_exit or self.policy.needs_exit_of(self.layer + 1, num_layers, self.input)

    @property
    def needs_table(self) -> bool:
        """Whether somebody looks at the tables of its exits themselves."""
        return self.keeps_every_exit or self.policy.compares_tables

    def goes_on_under(self, policy: ExitPolicy) -> Passage:
        """Make a passage under another policy that takes over where this one stands, as long as that keeps its state.

        One with halted words cannot be taken over: it begins anew.
        """
        if self.words is not None:
            return Passage(self.input, policy)
        return Passage(self.input, policy, state=self.state, history=[()] * self.layer)

    def release(self) -> None:
        """Give back what it holds on the device."""
        self.state = None
        self.readings.clear()
