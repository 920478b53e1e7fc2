"""The window criterion of TOKEE, against its definition word by word."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.exits.policies.tokee import simulate, still_active, threshold

certainties = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=30)


@given(certainties, st.integers(0, 7), st.floats(0, 1), st.randoms(use_true_random=False))
def test_a_word_goes_on_if_it_moves_and_any_word_of_its_window_is_unsure(
    values: list[float], reach: int, limit: float, random: Random
) -> None:
    uncertainty = np.array(values, dtype=np.float32)
    active = np.array([random.random() < 0.7 for _ in values])
    found = still_active(uncertainty, active, 2 * reach + 1, limit)
    for word in range(len(values)):
        near = uncertainty[max(0, word - reach) : word + reach + 1]
        assert found[word] == (active[word] and bool((near >= limit).any()))


@given(certainties, st.integers(0, 3), st.floats(0, 1))
def test_a_wider_window_or_a_lower_threshold_lets_no_more_words_stand_still(
    values: list[float], reach: int, limit: float
) -> None:
    uncertainty, all_active = np.array(values, dtype=np.float32), np.ones(len(values), dtype=bool)
    found = still_active(uncertainty, all_active, 2 * reach + 1, limit)
    assert not (found & ~still_active(uncertainty, all_active, 2 * reach + 3, limit)).any()
    assert not (found & ~still_active(uncertainty, all_active, 2 * reach + 1, limit / 2)).any()


@pytest.mark.parametrize(
    ("delta", "layers", "expected"),
    [(0.1, 6, [0.1] * 3 + [0.2] * 3), (0.3, 4, [0.3, 0.3, 0.5, 0.5]), (0.7, 2, [0.7, 0.7]), (0.2, 3, [0.2, 0.4, 0.4])],
)
def test_the_threshold_counts_twice_in_the_upper_half_up_to_a_half(
    delta: float, layers: int, expected: list[float]
) -> None:
    assert [threshold(delta, layer, layers) for layer in range(1, layers + 1)] == pytest.approx(expected)


def test_a_simulation_stops_words_where_their_windows_are_sure_and_remembers_who_stopped() -> None:
    # word 2 is unsure until layer 3; with a window of 3 it holds its neighbours up, word 0 not
    uncertainties = np.array([[0.0, 0.0, 0.9, 0.0], [0.0, 0.0, 0.9, 0.0], [0.0, 0.0, 0.0, 0.0]], dtype=np.float32)
    assert simulate(uncertainties, 1, 0.1).tolist() == [1, 1, 3, 1]
    assert simulate(uncertainties, 3, 0.1).tolist() == [1, 3, 3, 3]
    # word 0 stops sure at layer 1; that it would have been unsure later is never seen
    uncertainties = np.array([[0.0, 0.9], [0.9, 0.0], [0.9, 0.0]], dtype=np.float32)
    assert simulate(uncertainties, 1, 0.1).tolist() == [1, 2]


def test_a_simulation_at_zero_moves_all_words_to_the_end() -> None:
    uncertainties = np.zeros((4, 5), dtype=np.float32)
    assert simulate(uncertainties, 3, 0.0).tolist() == [4] * 5
