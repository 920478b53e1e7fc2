"""A copy of the project with one more exit strategy, in one new file and nothing else. No test lives here."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.api.servers_ import PROJECT

NAME, TITLE, REASON = "surest_word", "surest word", "surest"
SOURCE = '''"""Leave when the least certain cell is certain enough, once a few layers have run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from service.exits.declaration import Display, Style
from service.exits.parameters import Count, Evidence, Number, Scale, num_layers, quantiles
from service.exits.policy import LAST_LAYER, ExitPolicy, ExitReason
from service.spans.types import DoubleArray
from service.exits.reading import Reading


@dataclass(frozen=True, slots=True)
class SurestWord(ExitPolicy):
    """Leaves when the largest entropy is below tau, from layer `earliest` on."""

    strategy: ClassVar[str] = "surest_word"
    title: ClassVar[str] = "surest word"
    origin: ClassVar[str] = "a test"
    meaning: ClassVar[str] = "Leaves when even the least certain cell is certain, from the earliest layer on."
    reasons: ClassVar[tuple[ExitReason, ...]] = ("surest",)
    decided_by: ClassVar[tuple[str, ...]] = ("tau", "earliest")
    style: ClassVar[Style] = Style("#117733", "h", "--")
    display: ClassVar[Display] = Display(
        title="Least certain of all",
        shown="evidence",
        thresholds=("tau",),
        note="it was {0}",
        why={"surest": "Its doubt {0} is below τ = {tau}, and {earliest|layer} had to run."},
        held="its doubt never fell below τ = {tau}",
    )

    tau: Annotated[
        float, Number(meaning="a layer leaves when its largest entropy is smaller", scale=Scale(), grid=quantiles)
    ] = 0.9999
    earliest: Annotated[int, Count(meaning="the first layer to leave at", useful=num_layers, grid=(1, 2))] = 2

    def evidence(self, readings: Sequence[Reading]) -> DoubleArray:
        return readings[-1].figure("entropy_max")[:, None]

    def decide(self, history: Sequence[Evidence], num_layers: int) -> ExitReason | None:
        if len(history) == num_layers:
            return LAST_LAYER
        return "surest" if len(history) >= self.earliest and history[-1][0] < self.tau else None
'''


def copy_with_strategy(folder: Path) -> Path:
    """Copy what a server and the commands need into `folder`, and add the one file; -> the project's folder."""
    for name in ("service", "docs", "benchmarks"):
        ignored = shutil.ignore_patterns("__pycache__", "*.png")
        shutil.copytree(PROJECT / name, folder / name, ignore=ignored)
    (folder / "service" / "exits" / "policies" / f"{NAME}.py").write_text(SOURCE, encoding="utf-8")
    return folder
