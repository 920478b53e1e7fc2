"""DE3-BERT (He et al. 2024): leave when the least certain cell is certain enough by entropy and distance together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray

from service.exits.declaration import Display
from service.exits.parameters import Evidence, Number, OfModel, Scale
from service.exits.policy import LAST_LAYER, ExitPolicy, ExitReason
from service.exits.reading import Reading
from service.spans.types import DoubleArray, FloatArray

CANDIDATE = 0.05  # a cell is a candidate if an entity has more than this probability there (ours; as in training)
TAUS = (0.02, 0.05, 0.08, 0.12, 0.16, 0.2, 0.25, 0.3, 0.35, 0.4)
WEIGHTS = (0.0, 1.0, 4.0, 1e6)  # of the distance: entropy alone, both, distance alone
_EPSILON = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Prototypes:
    """Holds the prototypes of a model.

    points  (exits, K, rank) one for every exit and label; that of label 0 is made of its hard negatives
    """

    points: FloatArray


@dataclass(frozen=True, slots=True)
class De3(ExitPolicy):
    """Leaves when the largest EDR of a candidate cell is below tau; `weight` is the paper's lambda.

    The paper classifies sentences; which cells count, and that the largest EDR decides, is our choice.
    """

    strategy: ClassVar[str] = "de3"
    title: ClassVar[str] = "DE3-BERT"
    origin: ClassVar[str] = "He et al. 2024"
    meaning: ClassVar[str] = (
        "Leaves when the least certain cell that may be an entity has an entropy, weighed with its distance from what "
        "its label looks like, below tau. The larger the weight, the more the distance counts."
    )
    reasons: ClassVar[tuple[ExitReason, ...]] = ("confidence",)
    decided_by: ClassVar[tuple[str, ...]] = ("tau",)
    is_replayable: ClassVar[bool] = False  # a trace keeps no projections
    display: ClassVar[Display] = Display(
        title="Least certain candidate",
        shown="evidence",
        thresholds=("tau",),
        note="{0}",
        why={"confidence": "Entropy and distance of its least certain candidate come to {0}, below τ = {tau}."},
        held="no earlier layer came below τ = {tau}",
    )

    tau: Annotated[
        float,
        Number(meaning="a layer is confident when its largest EDR is smaller", unit="EDR", scale=Scale(), grid=TAUS),
    ] = 0.2
    weight: Annotated[
        float,
        Number(highest=1e6, meaning="0: entropy alone; the larger, the more the distances count", grid=WEIGHTS),
    ] = 1.0
    prototypes: Annotated[
        Prototypes,
        OfModel("a model trained with prototypes (recipe field distance_weight), which this one was not"),
    ] = field(kw_only=True, repr=False)

    @property
    def compares_tables(self) -> bool:
        """Always True: the entropy of single cells is only in the table."""
        return True

    def evidence(self, readings: Sequence[Reading]) -> DoubleArray:
        """Return (sequences, 1): the largest EDR of a candidate cell at the latest layer."""
        points = self.prototypes.points[len(readings) - 1]
        return largest_edr(readings[-1], points, self.weight)[:, None]

    def decide(self, history: Sequence[Evidence], num_layers: int) -> ExitReason | None:
        """Leave if the EDR of the latest layer is below tau."""
        if len(history) == num_layers:
            return LAST_LAYER
        return "confidence" if history[-1][0] < self.tau else None


def distance_ratio(distances: FloatArray, predicted: NDArray[np.int64]) -> FloatArray:
    """Return DR = .5 (1 + (r1 - r2) / max(r1, r2)) of every cell: (cells,) in [0, 1].

    r1 is the distance to the prototype of the predicted label, r2 that to the nearest other prototype. DR is small
    where the prototype of the prediction is by far the nearest, and .5 where both distances are 0 (our reading).

    distances  (cells, K) to the prototypes
    predicted  (cells,) labels
    """
    rows = np.arange(len(distances))
    nearest = distances[rows, predicted]
    others = distances.copy()
    others[rows, predicted] = np.inf
    other = others.min(axis=1)
    larger = np.maximum(nearest, other)
    found: FloatArray = 0.5 * (1 + np.divide(nearest - other, larger, out=np.zeros_like(larger), where=larger > 0))
    return found


def entropy_distance_ratio(entropy: FloatArray, ratio: FloatArray, weight: float) -> FloatArray:
    """Return EDR = (weight + 1) / (weight / DR + 1 / Entropy), in a form that allows zeros: (cells,) each.

    With weight 0 the EDR is the entropy; with a very large weight it is the distance ratio.
    """
    found: FloatArray = (1 + weight) * ratio * entropy / (weight * entropy + ratio + _EPSILON)
    return found


def largest_edr(reading: Reading, points: FloatArray, weight: float) -> NDArray[np.float64]:
    """Return the largest EDR of a candidate cell of every sequence: (sequences,), 0 where there is no candidate.

    points: (K, rank) prototypes of the exit that the reading comes from. A cell lies at a_s + b_e, the sum of the
    projections of its first and its last word.
    """
    starts, ends = reading.projections
    log_probs = reading.log_probs
    chosen = np.flatnonzero(log_probs[:, 0] < np.log1p(-CANDIDATE))
    found = np.zeros(len(reading.num_words))
    if not len(chosen):
        return found
    first, last, owner = reading.words_of_cells(chosen)
    cells = starts[first] + ends[last]
    distances = np.sqrt(np.maximum(np.square(cells[:, None, :] - points).sum(axis=2), 0)).astype(np.float32)
    table = log_probs[chosen]
    entropy = -(np.exp(table) * table).sum(axis=1) / np.log(table.shape[1])
    ratio = distance_ratio(distances, table.argmax(axis=1))
    np.maximum.at(found, owner, entropy_distance_ratio(entropy, ratio, weight).astype(np.float64))
    return found
