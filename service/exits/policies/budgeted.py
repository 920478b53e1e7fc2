"""Budgeted exiting (section 2.3.2 of VEE-BERT): every sequence leaves at one fixed layer, the static cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from service.errors import BadInput
from service.exits.declaration import Display, Style
from service.exits.parameters import Count, Evidence, all_layers, num_layers
from service.exits.policy import LAST_LAYER, ExitPolicy, ExitReason


@dataclass(frozen=True, slots=True)
class Budgeted(ExitPolicy):
    """Leaves at `layer` and computes no other exit."""

    strategy: ClassVar[str] = "budgeted"
    title: ClassVar[str] = "static cut"
    origin: ClassVar[str] = "section 2.3.2 of VEE-BERT"
    meaning: ClassVar[str] = "Leaves at one fixed layer, whatever it says."
    reasons: ClassVar[tuple[ExitReason, ...]] = ("budget",)
    decided_by: ClassVar[tuple[str, ...]] = ("layer",)
    style: ClassVar[Style] = Style("#444444", "|", "-.")
    display: ClassVar[Display] = Display(
        title="Budget", why={"budget": "The budget ends at layer {layer}."}, held="the budget allows it"
    )

    layer: Annotated[
        int, Count(meaning="the layer to leave at", useful=num_layers, grid=all_layers, ends=("first", "last"))
    ] = 3

    def needs_exit(self, layer: int, num_layers: int) -> bool:
        """Tell whether the exit is that of the fixed layer; no other one is needed."""
        return layer == self.layer

    def decide(self, history: Sequence[Evidence], num_layers: int) -> ExitReason | None:
        """Leave at the fixed layer, which may be the last."""
        if len(history) == num_layers:
            return LAST_LAYER
        return "budget" if len(history) == self.layer else None

    def check(self, num_layers: int) -> None:
        """Raise BadInput for a layer that the model does not have."""
        if self.layer > num_layers:
            raise BadInput(f"layer is {self.layer}; this model has {num_layers} layers")
