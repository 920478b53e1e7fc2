"""VEE (vote early exiting, section 4.2 of VEE-BERT): leave when enough earlier layers agree with this one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from service.errors import BadInput
from service.exits.consistency import CONSISTENCIES, Cells
from service.exits.policy import Evidence, ExitPolicy, ExitReason, require_choice, require_int


@dataclass(frozen=True, slots=True)
class Vee(ExitPolicy):
    """Every earlier layer i with C(T_i, T_m) > tau is one vote for layer m; with `patience` votes T_m is decoded.

    The count is fresh at every layer and votes need not be consecutive, so the earliest exit is layer patience + 1, and
    patience >= num_layers - 1 never leaves early. The comparison is strict: tau = 0 never leaves early under KL.
    """

    strategy: ClassVar[str] = "vee"

    measure: str = "kl"
    pooling: str = "mean"
    tau: float = -0.001
    patience: int = 1

    def __post_init__(self) -> None:
        require_choice("measure", self.measure, sorted({measure for measure, _ in CONSISTENCIES}))
        poolings = sorted(pooling for measure, pooling in CONSISTENCIES if measure == self.measure)
        require_choice("pooling", self.pooling, poolings)
        require_int("patience", self.patience, 1)
        consistency = CONSISTENCIES[self.measure, self.pooling]
        is_number = isinstance(self.tau, int | float) and not isinstance(self.tau, bool)
        is_finite = is_number and abs(self.tau) <= sys.float_info.max  # math.isfinite overflows on a huge integer
        if not is_finite or not consistency.lowest <= self.tau <= consistency.highest:
            raise BadInput(
                f"tau is {self.tau!r}; measure {self.measure} pooled by {self.pooling} lies in "
                f"[{consistency.lowest}, {consistency.highest}], and a layer votes when it is larger than tau"
            )

    def needs_table(self, layer: int, num_layers: int) -> bool:
        """Every layer votes, unless patience rules out that any vote is won before the last."""
        return layer == num_layers or self.patience < num_layers - 1

    def evidence(self, tables: Sequence[Tensor], cells: Cells) -> Tensor:
        """(sequences, m - 1): the consistency of layer m with layers 1, 2, ..., m - 1."""
        compare = CONSISTENCIES[self.measure, self.pooling].compare
        *earlier, current = tables
        if not earlier:
            return ExitPolicy.evidence(self, tables, cells)
        return torch.stack([compare(table, current, cells) for table in earlier], dim=1)

    def votes(self, evidence: Evidence) -> int:
        """How many earlier layers agree with the layer that `evidence` was taken at."""
        return sum(consistency > self.tau for consistency in evidence)

    def decide(self, history: Sequence[Evidence], num_layers: int) -> ExitReason | None:
        """Count the votes of the latest layer."""
        if len(history) == num_layers:
            return "last_layer"
        return "vote" if self.votes(history[-1]) >= self.patience else None
