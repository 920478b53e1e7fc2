"""The learned rule (ours): leave when going on is not expected to mend enough entities to be worth the work.

The rule is one linear estimate per layer, of a few numbers that exits and votes have at hand anyway. Its weights are
fitted in `service.evaluation.fit_rule`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import mul
from typing import Annotated, Any, ClassVar

import numpy as np

from service.errors import ModelRefused
from service.exits.assets import ModelAssets
from service.exits.declaration import Display, Family, Style
from service.exits.parameters import Count, Evidence, Evidences, Number, OfModel, Scale, earlier_layers, quantiles
from service.exits.policy import LAST_LAYER, ExitPolicy, ExitReason
from service.exits.reading import BYTES_OF_A_KEY, Reading
from service.spans.types import DoubleArray

FEATURES = (
    "log_entropy_max",  # of the least certain cell
    "log_doubt",  # -log of the probability that every cell's label is right, were cells independent
    "missed",  # highest probability of an entity among the cells where none is most probable
    "weakest",  # 1 - the lowest probability of a cell's label among the cells where an entity is most probable
    "log_entities",  # entities decoded, + 1
    "log_words",
    "is_unchanged",  # decoded the same as the layer before
    "votes",  # earlier layers that decoded the same
)
SMALLEST = 1e-6
LARGEST_LOG_WORTH = 6.9  # a worth of 992: within the range of tau
UNIT_PIECES = 24  # the unit of work is a layer of a sequence with so many pieces (some 20 words)


def features(readings: Sequence[Reading]) -> list[tuple[float, ...]]:
    """Return the FEATURES of every sequence after the latest of the exits: (sequences, FEATURES).

    They are plain floats: for few sequences that is faster, and no other sequence of the batch can change the last bit
    of a logarithm.
    """
    *earlier, current = readings
    before = [reading.entity_keys for reading in earlier]
    rows: list[tuple[float, ...]] = []
    for index, (entities, num_words) in enumerate(zip(current.entity_keys, current.num_words, strict=True)):
        entropy_max, _, _, doubt, missed, weakest = current.summary_rows[index]
        agreements = [of_layer[index] == entities for of_layer in before]
        rows.append(
            (
                math.log(entropy_max + SMALLEST),
                math.log(doubt + SMALLEST),
                missed,
                weakest,
                math.log1p(len(entities) // BYTES_OF_A_KEY),
                math.log(num_words),
                1.0 if agreements and agreements[-1] else 0.0,
                float(sum(agreements)),
            )
        )
    return rows


@dataclass(frozen=True, slots=True, eq=False)
class ExitRule:
    """Estimates the worth of going on after layer m = 1, ..., num_layers - 1, from FEATURES.

    log(worth) = weights[m - 1] . features + bias[m - 1]. The worth is a score: the price of a unit of work up to which
    going on pays, where the unit is one layer of a sequence of UNIT_PIECES pieces and the price is in entity errors. It
    is fitted at low prices (see `fit_rule`), where sequences are decided; a high worth says that going on pays at any
    price, and is no number of errors that anybody would find. Of two sequences with as much to mend, the longer one has
    the lower worth.
    """

    weights: tuple[tuple[float, ...], ...]
    bias: tuple[float, ...]

    @property
    def num_layers(self) -> int:
        return len(self.bias) + 1

    def worth_of_going_on(self, readings: Sequence[Reading]) -> DoubleArray:
        """Return the worth of going on after layer len(readings), which is not the last: (sequences,), above 0."""
        weights, bias = self.weights[len(readings) - 1], self.bias[len(readings) - 1]
        worth = []
        for row in features(readings):
            log_worth = bias + sum(map(mul, weights, row))
            worth.append(math.exp(max(-LARGEST_LOG_WORTH, min(log_worth, LARGEST_LOG_WORTH))))
        return np.array(worth)

    def to_json(self) -> dict[str, Any]:
        """Return the rule as plain JSON types; it names its features, so that a rule of other features is refused."""
        return {"features": list(FEATURES), "weights": [list(row) for row in self.weights], "bias": list(self.bias)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], num_layers: int) -> ExitRule:
        """Read what `to_json` returned. Raises ModelRefused for a rule of other features or another depth."""
        try:
            weights = tuple(tuple(float(weight) for weight in row) for row in data["weights"])
            rule = cls(weights, tuple(float(value) for value in data["bias"]))
            known = tuple(data["features"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ModelRefused(f"the learned exit rule cannot be read: {error!r}; calibrate the model again") from error
        if not all(math.isfinite(value) for row in (*weights, rule.bias) for value in row):
            raise ModelRefused("the learned exit rule has weights that are not finite; calibrate the model again")
        fits = known == FEATURES and len(weights) == len(rule.bias) == num_layers - 1
        if not fits or any(len(row) != len(FEATURES) for row in weights):
            raise ModelRefused(
                f"the learned exit rule is one of features {list(known)} for {rule.num_layers} layers; expected "
                f"{list(FEATURES)} for {num_layers}: calibrate the model again"
            )
        return rule


@dataclass(frozen=True, slots=True)
class LeavesByRule(ExitPolicy):
    """Leaves when the worth of going on, by an ExitRule, is below tau.

    The unit of work is a layer of a sequence of UNIT_PIECES pieces; a layer of a longer sequence is more work, so it
    must mend more. After layer `deepest_exit` no sequence leaves early and only the last exit is computed: exits that
    seldom let a sequence leave cost more than they save. Where the rule comes from, subclasses know.
    """

    reasons: ClassVar[tuple[ExitReason, ...]] = ("learned",)
    decided_by: ClassVar[tuple[str, ...]] = ("tau",)
    display: ClassVar[Display] = Display(
        title="Worth of going on",
        shown="evidence",
        thresholds=("tau",),
        note="{0}",
        why={"learned": "The worth of going on, a score of what it may mend for its work, was {0}: below τ = {tau}."},
        held="no layer at which it may leave came below τ = {tau}",
    )

    tau: Annotated[
        float,
        Number(
            highest=1_000.0,
            meaning="a sequence leaves when the worth of going on, a score, is smaller",
            unit=f"a price in entity errors of a layer of {UNIT_PIECES} pieces",
            scale=Scale(farthest=1_000.0),
            grid=quantiles,
        ),
    ] = 0.03
    deepest_exit: Annotated[
        int,
        Count(
            meaning="the layer after which nobody leaves early, and no exit is paid for but the last",
            useful=earlier_layers,
            ends=("the first layer alone", "any layer"),
        ),
    ] = 1_000

    @abstractmethod
    def exit_rule(self) -> ExitRule:
        """Return the rule that estimates the worth."""

    def needs_exit(self, layer: int, num_layers: int) -> bool:
        """Tell whether the layer is at most `deepest_exit`, or the last one."""
        return layer <= self.deepest_exit or layer == num_layers

    def evidence(self, readings: Sequence[Reading]) -> DoubleArray:
        """Return (sequences, 1): the worth of going on; after the last layer (sequences, 0)."""
        rule = self.exit_rule()
        if len(readings) >= min(rule.num_layers, self.deepest_exit + 1):  # at the last layer
            return ExitPolicy.evidence(self, readings)
        return rule.worth_of_going_on(readings)[:, None]

    def decide(self, history: Sequence[Evidence], num_layers: int) -> ExitReason | None:
        """Leave if the worth of going on is below tau, at the latest after `deepest_exit`."""
        if len(history) == num_layers:
            return LAST_LAYER
        if len(history) > self.deepest_exit:
            return None
        return "learned" if history[-1][0] < self.tau else None


@dataclass(frozen=True, slots=True)
class Learned(LeavesByRule):
    """Leaves when the worth of going on, by the rule that calibration fitted for the model, is below tau."""

    strategy: ClassVar[str] = "learned"
    title: ClassVar[str] = "learned rule (ours)"
    origin: ClassVar[str] = "ours"
    meaning: ClassVar[str] = (
        "Leaves when the worth of going on is below tau: a score that grows with the entity errors that going on may "
        "mend, and falls with the work that it is. Nobody leaves after the deepest exit but at the end."
    )
    style: ClassVar[Style] = Style("#000000", "o", "-")

    rule: Annotated[ExitRule, OfModel("a rule trained for this model, which it has not: calibrate it first")] = field(
        kw_only=True, repr=False
    )

    def exit_rule(self) -> ExitRule:
        """Return the model's."""
        return self.rule

    @classmethod
    def families(cls, model: ModelAssets) -> list[Family]:
        """Return one family: all taus, with all early exits or without the deepest one.

        A sweep that may leave out more exits was seen to overfit the data that it chooses on.
        """
        layers = model.num_layers

        def members(seen: Evidences) -> list[ExitPolicy]:
            pairs = [(tau, deepest) for deepest in range(max(1, layers - 2), layers) for tau in quantiles(model, seen)]
            return [cls.of_model(model, tau=tau, deepest_exit=deepest) for tau, deepest in pairs]

        return [Family(cls.strategy, cls.title, cls.of_model(model), members, cls.style)]
