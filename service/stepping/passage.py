"""A passage: one sequence on its way through the layers under a policy. `advance` moves it."""

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
    """Holds one sequence, its policy, and how far it has come.

    keeps_every_exit  whether every exit is computed, tables included, even if its policy does not need it, so that the
                      passage can be inspected afterwards
    state             what the executor keeps of it after the last layer that ran
    readings          for every layer that ran, what its exit said; None if the exit was not needed
    history           for every layer that ran, the evidence that the policy saw
    words             how far its words have come, under a strategy that halts them one by one; else None
    exit_reason       why it left; None until it leaves
    spans             its answer, once it has been decoded
    """

    input: SequenceInput
    policy: ExitPolicy
    keeps_every_exit: bool = False
    state: Any = None
    readings: list[Reading | None] = field(default_factory=list)
    history: list[Evidence] = field(default_factory=list)
    words: WordProgress | None = None
    exit_reason: ExitReason | None = None
    spans: list[Span] = field(default_factory=list)

    @property
    def layer(self) -> int:
        """How many layers have run; once the passage has left, its exit layer."""
        return len(self.history)

    @property
    def layers_run(self) -> float:
        """How many layers moved it: its depth, or under a strategy by word the mean over its words."""
        return self.layer if self.words is None else float(self.words.layers.mean())

    @property
    def step_pieces(self) -> int:
        """The work of its next layer, in moving pieces."""
        return self.input.num_pieces if self.words is None else self.words.step_pieces(self.input)

    @property
    def seen(self) -> list[Reading]:
        """The readings of the exits that were computed."""
        return [reading for reading in self.readings if reading is not None]

    def decode(self) -> list[Span]:
        """Return the spans that the passage answers if it leaves after the latest layer."""
        return self.policy.prediction(self.seen).spans[0]

    def needs_exit(self, layer: int, num_layers: int) -> bool:
        """Tell whether the exit after a layer that is still before it must be computed."""
        is_last = layer == num_layers  # whoever comes there answers there, whatever the policy says
        return is_last or self.keeps_every_exit or self.policy.needs_exit_of(layer, num_layers, self.input)

    @property
    def needs_table(self) -> bool:
        """Whether the tables of its exits themselves are read, by its policy or afterwards."""
        return self.keeps_every_exit or self.policy.compares_tables

    def goes_on_under(self, policy: ExitPolicy) -> Passage:
        """Return a passage under another policy that goes on from here; this one must not be released before.

        A passage under a strategy by word cannot be taken over: the new one begins at the first layer.
        """
        if self.words is not None:
            return Passage(self.input, policy)
        return Passage(self.input, policy, state=self.state, history=[()] * self.layer)

    def release(self) -> None:
        """Let go of all that the passage holds on the device."""
        self.state = None
        self.readings.clear()
