"""PABEE (Zhou et al. 2020): leave when the answer has stayed the same for some layers in a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from service.exits.consistency import entity_set
from service.exits.declaration import Display, Style
from service.exits.parameters import Count, Evidence, earlier_layers, patiences
from service.exits.policy import LAST_LAYER, ExitPolicy, ExitReason
from service.exits.reading import Reading
from service.spans.types import DoubleArray


@dataclass(frozen=True, slots=True)
class Pabee(ExitPolicy):
    """Leaves when `patience` consecutive layers decoded the same entities as the layer before each of them.

    It compares the decoded sets, which are what a client would get, and not the tables of labels (our choice).
    """

    strategy: ClassVar[str] = "pabee"
    title: ClassVar[str] = "PABEE, entity sets"
    origin: ClassVar[str] = "Zhou et al. 2020"
    meaning: ClassVar[str] = "Leaves when the entities stayed the same for as many layers in a row as patience says."
    reasons: ClassVar[tuple[ExitReason, ...]] = ("vote",)
    decided_by: ClassVar[tuple[str, ...]] = ("patience",)
    style: ClassVar[Style] = Style("#CC79A7", "P", "--")
    display: ClassVar[Display] = Display(
        title="Same as the layer before",
        note="{0?same:changed}",
        why={"vote": "The entities stayed the same {patience|time} in a row."},
        held="the entities never stayed the same {patience|time} in a row",
    )

    patience: Annotated[
        int,
        Count(
            meaning="how many layers in a row have to find what the layer before each of them found",
            unit="layers",
            useful=earlier_layers,
            grid=patiences,
            ends=("leaves earlier", "leaves later"),
        ),
    ] = 1

    def needs_exit(self, layer: int, num_layers: int) -> bool:
        """Tell whether the exit is needed: every one is, unless patience rules out leaving before the last layer."""
        return layer == num_layers or self.patience < num_layers - 1

    def evidence(self, readings: Sequence[Reading]) -> DoubleArray:
        """Return (sequences, 1): 1 where the layer before decoded the same, else 0; nothing at the first layer."""
        if len(readings) < 2:
            return ExitPolicy.evidence(self, readings)
        return entity_set(readings[-2], readings[-1])[:, None]

    def decide(self, history: Sequence[Evidence], num_layers: int) -> ExitReason | None:
        """Leave if each of the latest `patience` layers decoded the same as the layer before it."""
        if len(history) == num_layers:
            return LAST_LAYER
        is_patient = all(evidence == (1.0,) for evidence in history[-self.patience :])  # the first layer's is empty
        return "vote" if is_patient else None
