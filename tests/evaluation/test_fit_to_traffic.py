"""Fitting to samples of the traffic: its first exit is right where one feature is low, and nowhere else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from service.errors import DataRefused
from service.evaluation import fit_rule as fit_rule_module
from service.evaluation import traffic as traffic_module
from service.evaluation.traffic import (
    DISAGREEMENTS,
    Cuts,
    disagreement,
    fit_to_traffic,
    layers_at,
    points_of,
    worths,
)
from service.exits.policies.learned import FEATURES, ExitRule, Learned
from service.exits.replay import decide_all, evidences_of
from service.promise.records import RecordBuffer
from tests.evaluation.sampled_ import NUM_LAYERS, SIGN, records
from tests.evaluation.traces_ import drifting_trace
from tests.exits.tables_ import random_rule

MEASURED = [{"average_exit_layer": 1.0, "speedup_latency": 3.0}, {"average_exit_layer": 2.5, "speedup_latency": 1.5}]


def rule_of(feature: int) -> ExitRule:
    """A worth that grows with one feature alone."""
    row = tuple(2.0 * (index == feature) for index in range(len(FEATURES)))
    return ExitRule((row,) * (NUM_LAYERS - 1), (-1.0,) * (NUM_LAYERS - 1))


BLIND, SEEING = rule_of(0), rule_of(SIGN)


def test_records_are_replayed_as_a_trace_is() -> None:
    trace, rule = drifting_trace(30), random_rule(NUM_LAYERS)
    buffer = RecordBuffer(200, NUM_LAYERS)
    parts = [reading.split() for reading in trace.readings]
    for index, sequence in enumerate(trace.sequences):
        buffer.add([of_layer[index] for of_layer in parts], sequence.owned, sequence.num_pieces, 1.0)
    worth = worths(rule, buffer.records())
    evidences = evidences_of(Learned(rule=rule), trace.readings)
    assert np.allclose(worth.T.tolist(), [[one[0] for one in of_layer] for of_layer in evidences[:-1]], rtol=1e-4)
    for tau, deepest in ((float(np.median(worth)) * 1.0001, 3), (float(np.quantile(worth, 0.8)) * 1.0001, 2)):
        policy = Learned(tau=tau, deepest_exit=deepest, rule=rule)
        served = decide_all(policy, evidences_of(policy, trace.readings))
        assert layers_at(worth, tau, deepest).tolist() == served.tolist()
        assert len(set(served.tolist())) > 1


def test_with_few_samples_thresholds_are_fitted_and_the_rule_is_kept() -> None:
    found = fit_to_traffic(records(600), [Cuts(SEEING, (0.01,), 3)])
    assert found.cuts.rule is SEEING and not found.is_rule_new
    assert list(found.cuts.taus) == sorted(set(found.cuts.taus)) and len(found.cuts.taus) > 1
    assert found.saved > found.saved_before and found.gain > 0


def test_every_threshold_is_within_one_of_the_disagreements_and_none_is_needlessly_slow() -> None:
    sampled = records(600)
    cuts = fit_to_traffic(sampled, [Cuts(SEEING, (0.01,), 3)]).cuts
    worth = worths(SEEING, sampled)
    missed = [float(disagreement(sampled, layers_at(worth, tau, 3), sampled.weights)) for tau in cuts.taus]
    assert missed == sorted(missed) and missed[-1] <= DISAGREEMENTS[-1]
    assert missed[-1] > DISAGREEMENTS[-1] / 2  # a bolder one is over it


def test_with_enough_samples_a_rule_that_sees_nothing_is_fitted_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic_module, "FEWEST_FOR_A_RULE", 600)
    monkeypatch.setattr(fit_rule_module, "STEPS", 200)
    found = fit_to_traffic(records(600), [Cuts(BLIND, (0.1, 0.5, 1.0), 3)])
    assert found.is_rule_new and found.saved > found.saved_before + 0.5
    weights = np.abs(found.cuts.rule.weights[0])
    assert weights.argmax() == SIGN


def test_points_that_save_as_much_are_no_gain() -> None:
    first = fit_to_traffic(records(600), [Cuts(SEEING, (0.01,), 3)])
    again = fit_to_traffic(records(600, seed=1), [Cuts(SEEING, (0.01,), 3), first.cuts])
    assert abs(again.gain) < 0.1 and again.saved_before > first.saved_before


def test_where_nothing_was_saved_whatever_is_saved_is_a_gain() -> None:
    assert fit_to_traffic(records(600), [Cuts(SEEING, (1e-9,), 3)]).gain == 1.0


def test_too_few_samples_or_entities_are_refused_with_what_is_expected() -> None:
    with pytest.raises(DataRefused, match="expected at least 400 with 200"):
        fit_to_traffic(records(399), [Cuts(SEEING, (0.1,), 3)])
    nobody = records(600)
    nobody = replace(nobody, correct=np.zeros_like(nobody.correct))
    with pytest.raises(DataRefused, match="600 samples with 0 entities"):
        fit_to_traffic(nobody, [Cuts(SEEING, (0.1,), 3)])


def test_a_sample_of_a_peak_counts_for_the_sentences_that_it_stands_for() -> None:
    sampled = records(4)
    errors = np.array([[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [2, 0, 0, 0]])
    weighted = replace(
        sampled, errors=errors, correct=2 - errors // 2, weights=np.array([1, 1, 1, 3], dtype=np.float32)
    )
    at_once = np.ones(4, dtype=np.int64)
    assert disagreement(weighted, at_once, weighted.weights) == pytest.approx(6 / (2 * 9 + 6))


def test_points_tell_their_figures_with_full_depth_in_place_of_gold_and_an_interpolated_time() -> None:
    sampled = records(600)
    points = points_of(sampled, Cuts(SEEING, (0.3, 1e9), 3), MEASURED, NUM_LAYERS)
    fast, safe = points
    assert (fast["tau"], fast["average_exit_layer"], fast["speedup_latency"]) == (1e9, 1.0, 3.0)
    assert fast["f1_loss"] == pytest.approx(100 * float(sampled.errors[:, 0].sum()) / (4 * 600), abs=0.01)
    for point in points:
        assert point["f1"] + point["f1_loss"] == pytest.approx(100)
        low, high = point["f1_loss_interval"]
        assert low <= point["f1_loss"] <= high
        low, high = point["average_exit_layer_interval"]
        assert low <= point["average_exit_layer"] <= high
    assert safe["average_exit_layer"] > 1.0 and 1.0 < safe["speedup_latency"] < 3.0
