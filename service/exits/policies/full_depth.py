"""Full depth: all layers, one exit. The baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from service.exits.assets import ModelAssets
from service.exits.declaration import Display, Family, Need
from service.exits.parameters import Evidence
from service.exits.policy import LAST_LAYER, ExitPolicy, ExitReason


@dataclass(frozen=True, slots=True)
class FullDepth(ExitPolicy):
    """Never leaves early and computes no exit but the last."""

    strategy: ClassVar[str] = "full_depth"
    title: ClassVar[str] = "full depth"
    origin: ClassVar[str] = "the baseline"
    meaning: ClassVar[str] = "Never leaves early: the baseline."
    needs: ClassVar[tuple[Need, ...]] = ()
    display: ClassVar[Display] = Display(title="Full depth", held="full depth never leaves early")

    def needs_exit(self, layer: int, num_layers: int) -> bool:
        """Tell whether the exit is the last one; no other one is needed."""
        return layer == num_layers

    def decide(self, history: Sequence[Evidence], num_layers: int) -> ExitReason | None:
        """Leave at the last layer."""
        return LAST_LAYER if len(history) == num_layers else None

    @classmethod
    def families(cls, model: ModelAssets) -> list[Family]:
        """Return no family: full depth is what the others are compared with."""
        return []
