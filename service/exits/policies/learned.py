"""The learned rule (ours): leave when going on is not expected to mend enough to be worth the work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from service.exits.policy import Evidence, ExitPolicy, ExitReason, require_int, require_number
from service.exits.reading import Figures, Reading
from service.exits.rule import UNIT_PIECES, ExitRule


@dataclass(frozen=True, slots=True)
class Learned(ExitPolicy):
    """Leaves when the worth of going on, in entity errors mended per work done, is below tau.

    The unit of work is a layer of a sequence of UNIT_PIECES pieces; a layer of a longer one is more, so must mend more.
    After layer `deepest_exit` nobody leaves early and no exit is computed but the last: who is still there would pay
    for exits that seldom let anybody go. `rule` estimates the worth; it belongs to the model and is trained by
    `calibrate`.
    """

    strategy: ClassVar[str] = "learned"

    tau: float = 0.03
    deepest_exit: int = 1_000
    rule: ExitRule = field(kw_only=True, repr=False, metadata={"on_the_wire": False})

    def __post_init__(self) -> None:
        meaning = f"a sequence leaves when going on is to mend fewer entity errors per layer of {UNIT_PIECES} pieces"
        require_number("tau", self.tau, 0.0, 1_000.0, meaning)
        require_int("deepest_exit", self.deepest_exit, 1)

    def needs_exit(self, layer: int, num_layers: int) -> bool:
        """Down to the deepest early exit, and at the end."""
        return layer <= self.deepest_exit or layer == num_layers

    def evidence(self, readings: Sequence[Reading]) -> Figures:
        """(sequences, 1): the worth of going on, after all layers but the last."""
        if len(readings) >= min(self.rule.num_layers, self.deepest_exit + 1):  # at the last layer
            return ExitPolicy.evidence(self, readings)
        return self.rule.worth_of_going_on(readings)[:, None]

    def decide(self, history: Sequence[Evidence], num_layers: int) -> ExitReason | None:
        """By the latest layer's estimate."""
        if len(history) == num_layers:
            return "last_layer"
        if len(history) > self.deepest_exit:
            return None
        return "learned" if history[-1][0] < self.tau else None
