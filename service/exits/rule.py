"""The weights of the learned exit rule: one linear estimate a layer. How they are fitted is evaluation's business."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import mul
from typing import Any

import numpy as np

from service.errors import ModelRefused
from service.exits.features import FEATURES, features
from service.exits.reading import Figures, Reading

LARGEST_LOG_WORTH = 6.9  # a worth of 992: within the range of tau
UNIT_PIECES = 24  # a layer of a sequence of so many pieces is the unit of work, in which tau is told: some 20 words


@dataclass(frozen=True, slots=True, eq=False)
class ExitRule:
    """log(worth of going on after layer m) = weights[m - 1] . features + bias[m - 1], for m = 1, ..., num_layers - 1.

    Worth is in entity errors mended per unit of work: one layer of a sequence of UNIT_PIECES. Of two sequences with as
    much to mend, the longer one is worth less.
    """

    weights: tuple[tuple[float, ...], ...]
    bias: tuple[float, ...]

    @property
    def num_layers(self) -> int:
        return len(self.bias) + 1

    def worth_of_going_on(self, readings: Sequence[Reading]) -> Figures:
        """After layer len(readings), which is not the last -> (sequences,) float64, above 0."""
        weights, bias = self.weights[len(readings) - 1], self.bias[len(readings) - 1]
        worth = []
        for row in features(readings):
            log_worth = bias + sum(map(mul, weights, row))
            worth.append(math.exp(max(-LARGEST_LOG_WORTH, min(log_worth, LARGEST_LOG_WORTH))))
        return np.array(worth)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types; features by name, so that a rule of other features is refused."""
        return {"features": list(FEATURES), "weights": [list(row) for row in self.weights], "bias": list(self.bias)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], num_layers: int) -> ExitRule:
        """The reverse of `to_json`. Raises ModelRefused for a rule of other features or another depth."""
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
