"""Fits thresholds, and with enough samples the learned rule, to samples of the traffic: on agreement with full depth.

The records of samples are all that it sees; the model does not run. Where they come from, and what is done with the
operating points that are found, is known elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from service.errors import DataRefused
from service.evaluation.bootstrap import interval
from service.evaluation.fit_rule import fit_to_errors, work_of_a_layer
from service.exits.parameters import NUM_QUANTILES
from service.exits.policies.learned import LARGEST_LOG_WORTH, ExitRule
from service.promise.records import SampleRecords
from service.spans.types import DoubleArray, IntArray

FEWEST_SAMPLES = 400  # from which thresholds are fitted
FEWEST_FOR_A_RULE = 2_000  # from which the rule is fitted as well
FEWEST_ENTITIES = 200  # of full depth, below which nothing is known of agreement
DISAGREEMENTS: DoubleArray = np.geomspace(0.001, 0.2, 27)  # a point is the fastest that is within one of these
JUDGED_AT = (0.02, 0.05, 0.1)  # disagreements at which old and new points are compared
DRAWS = 400  # of the bootstrap


@dataclass(frozen=True, slots=True)
class Cuts:
    """Operating points of one rule: sequences leave where the worth of going on is below a threshold.

    taus          thresholds, ascending
    deepest_exit  after which nobody leaves early
    """

    rule: ExitRule
    taus: tuple[float, ...]
    deepest_exit: int


@dataclass(frozen=True, slots=True)
class TrafficFit:
    """What was fitted.

    cuts          the operating points
    is_rule_new   whether the rule was fitted as well
    saved_before  layers saved by the points that there were before, mean over JUDGED_AT, on the newer half of samples
    saved         likewise, by points that were fitted to the older half
    """

    cuts: Cuts
    is_rule_new: bool
    saved_before: float
    saved: float

    @property
    def gain(self) -> float:
        """How many times the layers of the points before are saved, minus 1; 0 if neither saves any."""
        return self.saved / self.saved_before - 1 if self.saved_before else float(self.saved > 0)


def fit_to_traffic(records: SampleRecords, before: Sequence[Cuts]) -> TrafficFit:
    """Fit operating points to samples, and compare them with those that there were before.

    before: those points, the ones of the rule that is fitted anew first; their rule is kept where samples are too few
    Raises DataRefused for too few samples, or too few entities in them.
    """
    entities = int((records.correct[:, -1]).sum())
    if len(records) < FEWEST_SAMPLES or entities < FEWEST_ENTITIES:
        raise DataRefused(
            f"there are {len(records)} samples with {entities} entities; expected at least {FEWEST_SAMPLES} with "
            f"{FEWEST_ENTITIES}: wait for more traffic, or sample more of it (NER_SAMPLE_FRACTION)"
        )
    half = len(records) // 2
    older, newer = records.part(slice(half)), records.part(slice(half, None))
    saved_before = max(_saved(newer, cuts) for cuts in before)
    tried = [_fitted(older, before[0], is_rule_new=is_new) for is_new in _ways(records)]
    saved = [_saved(newer, cuts) for cuts in tried]
    best = int(np.argmax(saved))
    is_rule_new = _ways(records)[best]
    return TrafficFit(_fitted(records, before[0], is_rule_new=is_rule_new), is_rule_new, saved_before, saved[best])


def points_of(
    records: SampleRecords, cuts: Cuts, measured: Sequence[Mapping[str, Any]], num_layers: int
) -> list[dict[str, Any]]:
    """Return the figures of operating points on samples, cheapest first, with full depth's answers in place of gold.

    measured: points of the model's calibration as JSON, by which the time of a point is interpolated
    """
    drawn = np.random.default_rng(0).multinomial(len(records), np.full(len(records), 1 / len(records)), DRAWS)
    points = [_point(records, cuts, tau, records.weights * drawn) for tau in cuts.taus]
    known = sorted({(one["average_exit_layer"], 1 / one["speedup_latency"]) for one in measured} | {(num_layers, 1.0)})
    layers, times = np.array(known).T
    for point in points:
        time = float(np.interp(point["average_exit_layer"], layers, times))
        point["speedup_latency"] = round(1 / time, 3)
    return sorted(points, key=lambda point: float(point["average_exit_layer"]))


def _ways(records: SampleRecords) -> list[bool]:
    """Return whether a new rule is tried: not at all, or beside the one that there is."""
    return [False, True] if len(records) >= FEWEST_FOR_A_RULE else [False]


def _fitted(records: SampleRecords, before: Cuts, *, is_rule_new: bool) -> Cuts:
    """Choose, for each of DISAGREEMENTS, the fastest threshold that is within it on these samples."""
    rule = _rule(records) if is_rule_new else before.rule
    worth = worths(rule, records)
    seen = worth[:, : before.deepest_exit]
    low, high = np.quantile(seen, [0.01, 0.999])
    tried = [*np.quantile(seen, np.linspace(0.01, 0.999, NUM_QUANTILES)), *np.geomspace(low, high, NUM_QUANTILES)]
    grid = sorted({float(f"{tau:.4g}") for tau in tried})
    disagreements = [disagreement(records, layers_at(worth, tau, before.deepest_exit), records.weights) for tau in grid]
    found = {
        max((tau for tau, missed in zip(grid, disagreements, strict=True) if missed <= wish), default=None)
        for wish in DISAGREEMENTS
    }
    taus = sorted(tau for tau in found if tau is not None) or grid[:1]
    return Cuts(rule, tuple(taus), before.deepest_exit)


def _rule(records: SampleRecords) -> ExitRule:
    inputs = [torch.from_numpy(layer).double() for layer in np.moveaxis(records.features, 1, 0)]
    errors, work = torch.from_numpy(records.errors).float(), torch.from_numpy(work_of_a_layer(records.pieces)).float()
    counts = torch.from_numpy(records.weights / records.weights.mean()).float()
    return fit_to_errors(inputs, errors, work, counts=counts)


def worths(rule: ExitRule, records: SampleRecords) -> DoubleArray:
    """Return the worth of going on after every layer but the last: (samples, layers - 1)."""
    logs = np.einsum("nlf,lf->nl", records.features.astype(np.float64), np.array(rule.weights)) + np.array(rule.bias)
    found: DoubleArray = np.exp(np.clip(logs, -LARGEST_LOG_WORTH, LARGEST_LOG_WORTH))
    return found


def layers_at(worth: DoubleArray, tau: float, deepest_exit: int) -> IntArray:
    """Return the layer after which each sample leaves: (samples,)."""
    leaves = worth[:, :deepest_exit] < tau
    last = worth.shape[1] + 1
    layers: IntArray = np.where(leaves.any(axis=1), leaves.argmax(axis=1) + 1, last)
    return layers


def disagreement(records: SampleRecords, layers: IntArray, weights: Any) -> Any:
    """Return 1 - F1 against full depth of samples that leave after these layers.

    weights: (samples,), or (draws, samples) for a figure of each draw
    """
    at = np.arange(len(records)), layers - 1
    errors, common = weights @ records.errors[at], weights @ records.correct[at]
    return errors / np.maximum(2 * common + errors, 1e-12)


def _saved(records: SampleRecords, cuts: Cuts) -> float:
    """Return the layers that the fastest point within each of JUDGED_AT saves on these samples, in the mean."""
    worth = worths(cuts.rule, records)
    outcomes = [(0.0, 0.0)]  # full depth
    for tau in cuts.taus:
        layers = layers_at(worth, tau, cuts.deepest_exit)
        saved = records.num_layers - float(np.average(layers, weights=records.weights))
        outcomes.append((float(disagreement(records, layers, records.weights)), saved))
    return float(np.mean([max(saved for missed, saved in outcomes if missed <= wish) for wish in JUDGED_AT]))


def _point(records: SampleRecords, cuts: Cuts, tau: float, drawn: Any) -> dict[str, Any]:
    layers = layers_at(worths(cuts.rule, records), tau, cuts.deepest_exit)
    missed = 100 * float(disagreement(records, layers, records.weights))
    low, high = interval(100 * disagreement(records, layers, drawn))
    of_draws = interval(drawn @ layers / drawn.sum(axis=1))
    by_piece = records.weights * records.pieces
    layer = float(np.average(layers, weights=records.weights))
    return {
        "tau": tau,
        "deepest_exit": cuts.deepest_exit,
        "f1": round(100 - missed, 2),
        "f1_interval": [round(100 - high, 2), round(100 - low, 2)],
        "f1_loss": round(missed, 2),
        "f1_loss_interval": [round(low, 2), round(high, 2)],
        "average_exit_layer": round(layer, 3),
        "average_exit_layer_interval": [round(bound, 3) for bound in of_draws],
        "average_exit_layer_by_token": round(float(np.average(layers, weights=by_piece)), 3),
        "speedup_layers": round(records.num_layers / layer, 3),
    }
