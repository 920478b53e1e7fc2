"""Calibrates a model: finds the policies worth running, and what to expect of each, on a dev set and this device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from service.errors import DataRefused, ModelRefused
from service.evaluation.bootstrap import Bootstrap, interval
from service.evaluation.cost import CostMeter
from service.evaluation.fit_rule import cross_fitted_evidence, fit_rule
from service.evaluation.replay import Replayer
from service.evaluation.sweep import Outcome, cheapest, families, front, run, run_family
from service.evaluation.trace import Trace
from service.exits.assets import ModelAssets
from service.exits.operating_points import Calibration, OperatingPoint, Preset
from service.exits.policies.budgeted import Budgeted
from service.exits.policies.full_depth import FullDepth
from service.exits.policies.vee import Vee

MAX_F1_LOSS: Mapping[Preset, float] = {"accurate": 0.1, "balanced": 0.3, "fast": 1.0}  # F1 x 100, on the dev set
ALLOWANCE = 1.0  # standard errors by which the loss on one corpus may seem higher: each has few texts
SOURCE_DRAWS = 200  # of a corpus's texts
FEWEST_TEXTS = 10  # nothing can be learned from fewer
CLEARLY_BETTER = 1.0  # F1 x 100: an exit that is better than full depth by more is what presets are measured against
SMALLEST_STEP = 1.03  # neighbouring points of the front differ by at least this factor in time


Runs = Callable[[float], Mapping[str, Sequence[Outcome]]]


def calibrate(
    trace: Trace, meter: CostMeter, provenance: Mapping[str, Any], runs: Runs = lambda full_s: {}
) -> Calibration:
    """Fit the learned rule and sweep every strategy; return the front, and the best default of every strategy.

    The front holds policies of the learned rule and its two ends: the first exit for all sequences, and full depth. To
    choose among all strategies at every point would be to choose by luck. The rule is judged on every text by a rule
    that was fitted without that text, or without its corpus where there are several. A preset keeps its loss on all
    texts together and, as far as the texts of each can tell, on every corpus that they are from.

    Presets and defaults are allowed a loss below full depth. Where an earlier exit is clearly better than full depth
    (by CLEARLY_BETTER), as in a model that was trained too little, they are allowed it below that exit, and the
    provenance names it: `better_exit`. The figures of every point stay those against full depth.

    runs: a function that takes the seconds of full depth and returns the outcomes of the strategies that cannot be
    replayed, by family; their fronts are kept, too.

    Raises DataRefused for fewer than FEWEST_TEXTS texts, and ModelRefused for a model with one layer.
    """
    if len(trace.texts) < FEWEST_TEXTS:
        raise DataRefused(f"{trace.data} has {len(trace.texts)} texts; calibrate on at least {FEWEST_TEXTS}")
    if trace.num_layers < 2:
        raise ModelRefused(f"{trace.model} has one layer; there is no earlier exit to calibrate")
    replayer = Replayer(trace)
    full = run(FullDepth(), replayer, meter)
    rule = fit_rule(replayer)
    cross_fitted = cross_fitted_evidence(replayer)
    outcomes = {
        key: run_family(family, replayer, meter, cross_fitted if key == "learned" else None)
        for key, family in families(ModelAssets(trace.num_layers).with_asset(rule)).items()
    }
    points = _Points(full, Bootstrap(len(trace.texts)), trace)
    first_exit, best_exit = outcomes["budgeted"][0], max(outcomes["budgeted"], key=lambda outcome: outcome.f1)
    reference = best_exit if best_exit.f1 > full.f1 + CLEARLY_BETTER else full
    ladder = _ladder([*outcomes["learned"], first_exit, reference])
    presets = _presets(ladder, LossOnEverySource(trace.sources, reference))
    on_front = _spread(ladder, list(presets.values()))
    names = {id(outcome): preset for preset, outcome in presets.items()}
    others: list[Outcome] = []
    for found in runs(full.seconds).values():
        others += front(found)
        others.append(cheapest(found, reference.f1 - MAX_F1_LOSS["balanced"]))  # the last one becomes the default
    others += [cheapest(_of_patience_1(found), reference.f1 - MAX_F1_LOSS["balanced"]) for found in outcomes.values()]
    return Calibration(
        points=tuple(points.of(outcome, names.get(id(outcome))) for outcome in on_front),
        others=tuple(
            points.of(outcome)
            for outcome in (*others, full)
            if outcome not in on_front or isinstance(outcome.policy, Budgeted)  # else it would have no default
        ),
        rule=rule,
        provenance={
            **provenance,
            "data": trace.data,
            "texts": len(trace.texts),
            "sequences": len(trace.sequences),
            "weights_sha256": trace.weights_sha256,
            "full_depth_ms_per_sequence": round(1_000 * full.seconds / len(trace.sequences), 4),
            **({} if reference is full else {"better_exit": _better_exit(best_exit, full)}),
        },
    )


def _of_patience_1(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Keep VEE's policies of patience 1; other strategies keep all.

    So all defaults of VEE have the same patience, and the tau of another measure fits beside it.
    """
    return [o for o in outcomes if not isinstance(o.policy, Vee) or o.policy.patience == 1] or list(outcomes)


def _ladder(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return the front, cheapest first; if it has fewer points than there are presets, add the cheapest others."""
    ladder = front(outcomes)
    others = sorted((o for o in outcomes if o not in ladder), key=lambda o: (o.seconds, -o.f1))
    return sorted([*ladder, *others[: max(0, len(MAX_F1_LOSS) - len(ladder))]], key=lambda o: o.seconds)


def _better_exit(best_exit: Outcome, full: Outcome) -> dict[str, Any]:
    return {
        "exit_layer": best_exit.policy.to_json()["layer"],
        "f1": round(best_exit.f1, 2),
        "full_depth_f1": round(full.f1, 2),
    }


class LossOnEverySource:
    """Works out what an outcome loses: on all texts together, and on the texts of every corpus that they are from."""

    def __init__(self, sources: Sequence[str], reference: Outcome) -> None:
        """Prepare; `sources` holds the corpus of every text, and losses are against `reference`."""
        self._reference = reference
        names = sorted(set(sources)) if len(set(sources)) > 1 else []
        self._texts = [np.flatnonzero(np.array(sources) == name) for name in names]
        self._bootstraps = [Bootstrap(len(texts), draws=SOURCE_DRAWS) for texts in self._texts]

    def __call__(self, outcome: Outcome) -> float:
        """Return the largest loss, F1 x 100; that on one corpus counts less ALLOWANCE standard errors."""
        losses = [self._reference.f1 - outcome.f1]
        for texts, bootstrap in zip(self._texts, self._bootstraps, strict=True):
            ours, theirs = outcome.replay.of_texts(texts), self._reference.replay.of_texts(texts)
            error = float(np.std(bootstrap.f1(theirs) - bootstrap.f1(ours)))
            losses.append(100 * (theirs.micro.f1 - ours.micro.f1) - ALLOWANCE * error)
        return max(losses)


def _presets(ladder: Sequence[Outcome], loss_of: Callable[[Outcome], float]) -> dict[Preset, Outcome]:
    """Return for each preset the cheapest point within its loss.

    Where two presets would take the same point, the stricter one gets a dearer point.

    ladder   points, cheapest first
    loss_of  a function that returns the loss of a point, F1 x 100
    """
    losses = [loss_of(outcome) for outcome in ladder]
    chosen: dict[Preset, Outcome] = {}
    left = list(range(len(ladder)))
    for stricter, (preset, loss) in reversed([*enumerate(MAX_F1_LOSS.items())]):
        within_reach = left[: len(left) - stricter]  # the stricter ones need a point each
        fits = [index for index in within_reach if losses[index] <= loss]
        taken = fits[0] if fits else min(within_reach, key=lambda index: losses[index])
        chosen[preset] = ladder[taken]
        left = [index for index in left if index > taken]
    return chosen


def _spread(outcomes: Sequence[Outcome], kept: Sequence[Outcome]) -> list[Outcome]:
    """Drop outcomes that take hardly longer than the one before (SMALLEST_STEP), but none of those in `kept`.

    outcomes: cheapest first
    """
    spread: list[Outcome] = []
    for outcome in outcomes:
        if outcome in kept or not spread or outcome.seconds >= SMALLEST_STEP * spread[-1].seconds:
            spread.append(outcome)
    return spread


class _Points:
    """Turns outcomes into operating points."""

    def __init__(self, full: Outcome, bootstrap: Bootstrap, trace: Trace) -> None:
        self._full, self._bootstrap, self._trace = full, bootstrap, trace
        self._full_f1 = bootstrap.f1(full.replay)

    def of(self, outcome: Outcome, preset: Preset | None = None) -> OperatingPoint:
        replay = outcome.replay
        f1 = self._bootstrap.f1(replay)
        layers = self._bootstrap.average_exit_layer(replay, self._trace.text_of_sequence)
        return OperatingPoint(
            parameters=outcome.policy.to_json(),
            f1=round(outcome.f1, 2),
            f1_interval=_rounded(interval(f1), 2),
            f1_loss=round(self._full.f1 - outcome.f1, 2) + 0.0,
            f1_loss_interval=_rounded(interval(self._full_f1 - f1), 2),
            average_exit_layer=round(replay.average_exit_layer, 3),
            average_exit_layer_interval=_rounded(interval(layers), 3),
            average_exit_layer_by_token=round(replay.average_exit_layer_by_token, 3),
            speedup_layers=round(replay.num_layers / replay.average_exit_layer, 3),
            speedup_latency=round(self._full.seconds / outcome.seconds, 3),
            preset=preset,
        )


def _rounded(bounds: tuple[float, float], digits: int) -> tuple[float, float]:
    low, high = (round(bound, digits) + 0.0 for bound in bounds)  # 0, not -0
    return low, high
