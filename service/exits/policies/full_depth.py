"""Full depth: all layers, one exit. The baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from service.exits.policy import Evidence, ExitPolicy, ExitReason


@dataclass(frozen=True, slots=True)
class FullDepth(ExitPolicy):
    """Never leaves early and computes no exit but the last."""

    strategy: ClassVar[str] = "full_depth"

    def needs_exit(self, layer: int, num_layers: int) -> bool:
        """Only the last."""
        return layer == num_layers

    def decide(self, history: Sequence[Evidence], num_layers: int) -> ExitReason | None:
        """At the last layer."""
        return "last_layer" if len(history) == num_layers else None
