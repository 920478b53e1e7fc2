"""Estimates weigh samples by what they stand for, and intervals hold the truth whenever one looks."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.simulated_traffic import draw_scores
from service.promise.estimates import TrafficEstimates
from service.promise.scoring import Scores
from tests.promise.counts_ import scores_of


def test_before_the_first_sample_nothing_is_known() -> None:
    (found,) = TrafficEstimates(1, 6).estimates()
    assert found.to_json() == {
        "agreement": None,
        "agreement_interval": [0.0, 1.0],
        "average_exit_layer": None,
        "average_exit_layer_interval": [1.0, 6.0],
        "speedup_layers": None,
        "uncounted": 0.0,
        "samples": 0,
    }


def test_a_sample_counts_as_many_as_it_stands_for() -> None:
    estimates = TrafficEstimates(1, 6)
    estimates.add(scores_of([(4, 0, 0)], exit_layer=2), 1.0)
    estimates.add(scores_of([(1, 1, 1)], exit_layer=6), 4.0)
    (found,) = estimates.estimates()
    assert found.agreement == pytest.approx(2 * (4 + 4) / (8 + 4 * 4))
    assert found.average_exit_layer == pytest.approx((2 + 4 * 6) / 5)
    assert found.speedup_layers == pytest.approx(6 * 5 / 26)
    assert found.samples == 2


def test_errors_beyond_those_that_count_are_told() -> None:
    estimates = TrafficEstimates(1, 6)
    estimates.add(scores_of([(10, 4, 3)]), 1.0)
    (found,) = estimates.estimates()
    assert found.uncounted == pytest.approx(4 / 27)


def test_intervals_narrow_around_the_truth_and_hold_it_all_the_time() -> None:
    misses, widths = 0, []
    for seed in range(10):
        draw = np.random.default_rng(seed)
        estimates = TrafficEstimates(8, 6)
        for sample in range(1, 601):
            drawn = draw_scores(np.full((8, 1), 0.95), draw)
            layers = draw.choice([1, 2, 6], (1, 8), p=[0.5, 0.3, 0.2])
            scores = Scores(layers, *(getattr(drawn, name).T for name in ("true_positives", *ERRORS)))
            estimates.add(scores, 1.0)
            if sample % 60 == 0:
                found = estimates.estimates()
        widths += [one.agreement_interval[1] - one.agreement_interval[0] for one in found]
        for one in found:
            low, high = one.average_exit_layer_interval
            is_inside = one.agreement_interval[0] <= 0.95 <= one.agreement_interval[1] and low <= 2.3 <= high
            misses += not is_inside
            assert high - low < 1.2
    assert misses <= 4 and np.mean(widths) < 0.15  # of 80, each with a chance of at most 0.05 a figure


ERRORS = ("false_positives", "false_negatives")
