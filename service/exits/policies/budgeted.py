"""Budgeted exiting (section 2.3.2 of VEE-BERT): every sequence leaves at one fixed layer, the static cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from service.errors import BadInput
from service.exits.policy import Evidence, ExitPolicy, ExitReason, require_int


@dataclass(frozen=True, slots=True)
class Budgeted(ExitPolicy):
    """Leaves at `layer` and computes no other exit."""

    strategy: ClassVar[str] = "budgeted"

    layer: int = 3

    def __post_init__(self) -> None:
        require_int("layer", self.layer, 1)

    def needs_exit(self, layer: int, num_layers: int) -> bool:
        """Only that one."""
        return layer == self.layer

    def decide(self, history: Sequence[Evidence], num_layers: int) -> ExitReason | None:
        """At the layer, which may be the last."""
        if len(history) == num_layers:
            return "last_layer"
        return "budget" if len(history) == self.layer else None

    def check(self, num_layers: int) -> None:
        """The layer must exist."""
        if self.layer > num_layers:
            raise BadInput(f"layer is {self.layer}; this model has {num_layers} layers")
