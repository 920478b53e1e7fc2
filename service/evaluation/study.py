"""Compares the strategies of one model: thresholds are swept on dev data, the same policies replayed on test data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.assets import assets_of
from service.data.readers import read_examples
from service.errors import ModelRefused
from service.evaluation.bootstrap import Bootstrap
from service.evaluation.cost import CostMeter, PolicyCost
from service.evaluation.evaluate import encode_examples
from service.evaluation.fit_rule import cross_fitted_evidence
from service.evaluation.replay import Replayer
from service.evaluation.sweep import Outcome, cheapest, families, front, run, run_family
from service.evaluation.sweep_runs import outcome_of_run, time_shares
from service.evaluation.trace import Trace, trace
from service.executors.executor import Executor
from service.exits.declaration import Family
from service.exits.operating_points import Calibration, OperatingPoint
from service.exits.policies.budgeted import Budgeted
from service.exits.policies.full_depth import FullDepth
from service.exits.policies.vee import Vee
from service.models.store import StoredModel


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """Holds what one policy gives on dev data, where it is chosen, and on test data, where it is reported."""

    dev: Outcome
    test: Outcome


@dataclass(frozen=True, slots=True, eq=False)
class Study:
    """Holds what a report shows of one model.

    model              its reference, name@version
    given              how the command names it: the folder, or the name in the store
    dev, test          the traces
    kinds              by key, the families that were swept
    families           by key, every policy that was swept
    full               full depth
    oracle             leaves after the first layer whose decoded entities are those of full depth: no rule can know it
    ensemble           VEE (mean KL) that decodes the average of its exits
    points             the points of the calibrated front, and what each gives on the test data
    runs               the same for strategies that are run, not replayed; empty unless the model was trained for them
    entropy            per exit, the mean over test sequences of the mean normalised entropy (Eq. 6 of VEE-BERT)
    lengths            (lengths,) pieces
    layer_ms, exit_ms  (lengths,) milliseconds that one layer and one exit take for a sequence of that length
    measured_on        device, executor, data type and threads
    """

    model: str
    given: str
    calibration: Calibration
    dev: Trace
    test: Trace
    kinds: Mapping[str, Family]
    families: Mapping[str, Sequence[Pair]]
    full: Pair
    oracle: Outcome
    ensemble: Sequence[Pair]
    points: Sequence[tuple[OperatingPoint, Outcome]]
    runs: Sequence[tuple[OperatingPoint, Outcome]]
    entropy: Sequence[float]
    lengths: NDArray[np.int64]
    layer_ms: NDArray[np.float64]
    exit_ms: NDArray[np.float64]
    measured_on: Mapping[str, str | int]

    @property
    def bootstrap(self) -> Bootstrap:
        """The bootstrap over the test texts."""
        return Bootstrap(len(self.test.texts))

    def within(self, key: str, loss: float) -> Pair:
        """Return the cheapest policy of a family that loses at most `loss` (F1 x 100) on the dev data.

        If none does, it is the one with the best F1.
        """
        pairs = self.families[key]
        chosen = cheapest([pair.dev for pair in pairs], self.full.dev.f1 - loss)
        return next(pair for pair in pairs if pair.dev is chosen)

    def best(self, key: str, cost: Callable[[Outcome], float], at_most: float) -> Pair:
        """Return the policy of a family with the best F1 on dev data that costs no more than `at_most` there.

        If none costs so little, it is the best policy of all.
        """
        within = [pair for pair in self.families[key] if cost(pair.dev) <= at_most] or list(self.families[key])
        return max(within, key=lambda pair: (pair.dev.f1, -pair.dev.seconds))

    def front(self, key: str) -> list[Pair]:
        """Return the policies of a family that are on its front on the dev data, cheapest first."""
        kept = front([pair.dev for pair in self.families[key]])
        return [next(pair for pair in self.families[key] if pair.dev is outcome) for outcome in kept]

    def is_dominated(self, outcome: Outcome) -> bool:
        """Tell whether a static cut is at least as good on the test data and takes no longer."""
        cuts = [pair.test for pair in self.families["budgeted"]]
        return any(
            cut.f1 >= outcome.f1 and cut.seconds <= outcome.seconds and cut.policy != outcome.policy for cut in cuts
        )

    def static_f1_at(self, seconds: float) -> float:
        """Return the test F1 of static cuts that take `seconds`; between two cuts, that of a mixture of both."""
        cuts = sorted((pair.test.seconds, pair.test.f1) for pair in self.families["budgeted"])
        best = np.maximum.accumulate([f1 for _, f1 in cuts])  # a cut that is both worse and dearer need not be taken
        return float(np.interp(seconds, [cost for cost, _ in cuts], best))


def study(stored: StoredModel, given: str, dev_file: Path, test_file: Path, executor: Executor) -> Study:
    """Trace a model on both files, sweep its strategies on dev data, and replay the policies on test data.

    given: how the command names the model
    Raises ModelRefused for a model that is not calibrated: its learned rule and its front are part of the report.
    """
    if stored.operating_points is None:
        raise ModelRefused(f"{stored.reference} has no operating points; calibrate it on {dev_file} first")
    assets = assets_of(stored.model)
    calibration = Calibration.from_json(stored.operating_points, assets)
    catalog = calibration.catalog(assets)
    dev_examples, test_examples = read_examples(dev_file), read_examples(test_file)
    dev = trace(stored, dev_examples, f"{dev_file.parent.name}/{dev_file.name}", executor)
    test = trace(stored, test_examples, f"{test_file.parent.name}/{test_file.name}", executor)
    texts = encode_examples(stored.text_encoder, dev_examples)
    meter = CostMeter(executor, [s for text in texts for s in text.sequences])
    on_dev, on_test = Replayer(dev), Replayer(test)
    cross_fitted = cross_fitted_evidence(on_dev)
    swept: dict[str, list[Pair]] = {}
    kinds = families(catalog.model)
    for key, family in kinds.items():
        outcomes = run_family(family, on_dev, meter, cross_fitted if key == "learned" else None)
        swept[key] = [Pair(outcome, run(outcome.policy, on_test, meter)) for outcome in outcomes]
    averaging = [replace(policy, ensemble=True) for policy in _patience_1(swept)]
    at_oracle = on_test.at_layers(_oracle_layers(test))
    points = [(point, run(catalog.policy(point.parameters), on_test, meter)) for point in calibration.points]
    full_on_test = run(FullDepth(), on_test, meter)
    others = [(point, catalog.policy(point.parameters)) for point in calibration.others]
    wanted = [(point, policy) for point, policy in others if not policy.is_replayable]
    sequences = [s for text in encode_examples(stored.text_encoder, test_examples) for s in text.sequences]
    shares = time_shares(executor, [policy for _, policy in wanted], sequences) if wanted else {}
    runs = [
        (point, outcome_of_run(stored, executor, test_examples, policy, full_on_test.seconds * shares[policy]))
        for point, policy in wanted
    ]
    return Study(
        model=stored.reference,
        given=given,
        calibration=calibration,
        dev=dev,
        test=test,
        kinds=kinds,
        families=swept,
        full=Pair(run(FullDepth(), on_dev, meter), full_on_test),
        oracle=Outcome(FullDepth(), at_oracle, _one_exit(meter, dev.num_layers).of(at_oracle)),
        ensemble=[Pair(run(policy, on_dev, meter), run(policy, on_test, meter)) for policy in averaging],
        points=points,
        runs=runs,
        entropy=[float(reading.figure("entropy_mean").mean()) for reading in test.readings],
        lengths=meter.lengths,
        layer_ms=1_000 * meter.layer_s,
        exit_ms=1_000 * meter.exit_s,
        measured_on=executor.describe(),
    )


def _patience_1(swept: Mapping[str, Sequence[Pair]]) -> list[Vee]:
    policies = [pair.dev.policy for pair in swept["vee/kl/mean"]]
    return [policy for policy in policies if isinstance(policy, Vee) and policy.patience == 1]


def _one_exit(meter: CostMeter, num_layers: int) -> PolicyCost:
    """Return the cost of a policy that computes no exit but the one that a sequence leaves by."""
    cuts = [meter.cost(Budgeted(layer)).seconds[layer - 1] for layer in range(1, num_layers + 1)]
    return PolicyCost(meter.lengths, np.stack(cuts))


def _oracle_layers(traced: Trace) -> NDArray[np.int64]:
    """Find for every sequence the first layer whose decoded entities are those of the last layer: (sequences,)."""
    agrees = np.array(
        [
            [found == full for found, full in zip(reading.span_sets, traced.readings[-1].span_sets, strict=True)]
            for reading in traced.readings
        ]
    )
    layers: NDArray[np.int64] = agrees.argmax(axis=0) + 1
    return layers
