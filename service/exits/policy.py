"""What every exit strategy is: frozen parameters with `evidence` (tensor maths) and `decide` (plain Python)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from service.errors import BadInput
from service.exits.consistency import Cells

ExitReason = Literal["vote", "confidence", "learned", "budget", "last_layer"]
Evidence = tuple[float, ...]
HIGHEST_INT = 1_000_000  # more than any count of layers or words; a metric must be able to show it


@dataclass(frozen=True, slots=True)
class ExitPolicy(ABC):
    """A strategy with its parameters: an immutable value. Subclasses are frozen dataclasses; layers count from 1."""

    strategy: ClassVar[str]

    def needs_table(self, layer: int, num_layers: int) -> bool:
        """Whether the exit behind `layer` must be computed. Always true where `decide` may leave."""
        return True

    def evidence(self, tables: Sequence[Tensor], cells: Cells) -> Tensor:
        """What a layer's tables show: packed tables of the layers so far -> (sequences, n) float64.

        Depends on each sequence's own cells alone, never on its batch mates. The default shows nothing.
        """
        return torch.zeros(len(cells.counts), 0, dtype=torch.float64, device=cells.sequence.device)

    @abstractmethod
    def decide(self, history: Sequence[Evidence], num_layers: int) -> ExitReason | None:
        """Leave here? `history` has one entry a layer that ran; -> the reason to leave, or None to go on.

        At the last layer the reason is always "last_layer".
        """

    def check(self, num_layers: int) -> None:
        """Raise BadInput for a parameter that a model of `num_layers` layers cannot use."""

    def to_json(self) -> dict[str, Any]:
        """Strategy and parameters, as on the wire."""
        return {"strategy": self.strategy, **{f.name: getattr(self, f.name) for f in fields(self)}}


def require_int(name: str, value: object, lowest: int) -> None:
    """Raise BadInput unless `value` is an integer from lowest to HIGHEST_INT."""
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= HIGHEST_INT:
        raise BadInput(f"{name} is {value!r}; expected an integer of at least {lowest} and at most {HIGHEST_INT}")


def require_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise BadInput unless `value` is one of `choices`."""
    if value not in choices:
        raise BadInput(f"{name} is {value!r}; expected one of {list(choices)}")
