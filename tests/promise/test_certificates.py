"""Certificates come in order from the safest level on, run out with their window, and go at an alarm."""

from __future__ import annotations

import numpy as np
import pytest

from service.errors import BadInput
from service.promise.certificates import Certificates, Terms
from service.promise.wealth import BETS, BOLD, MOST_STAKE, even_shares

GOOD, BAD, EVEN = 0.1, -0.3, 0.0


def settle(certificates: Certificates, payoffs: list[float], times: int) -> None:
    for _ in range(times):
        certificates.settle(np.array(payoffs))


def samples_to_certify(payoff: float, terms: Terms) -> int:
    certificates = Certificates(1, terms)
    return next(count for count in range(1, 1_000) if certificates.settle(np.array([payoff])) or certificates.proven[0])


def test_nothing_is_certified_without_evidence() -> None:
    certificates = Certificates(3, Terms())
    settle(certificates, [EVEN] * 3, 50)
    assert not certificates.in_force.any() and certificates.fastest == -1


def test_a_good_level_is_certified_and_says_after_how_many_samples() -> None:
    needed = samples_to_certify(GOOD, Terms())
    certificates = Certificates(1, Terms())
    settle(certificates, [GOOD], needed - 1)
    assert not certificates.proven.any() and certificates.wealth[0] < 20
    settle(certificates, [GOOD], 5)
    assert certificates.proven.all() and certificates.proven_after.tolist() == [needed] and certificates.fastest == 0


def test_more_confidence_or_more_windows_take_more_samples() -> None:
    usual = samples_to_certify(GOOD, Terms())
    assert samples_to_certify(GOOD, Terms(delta=0.001)) > usual
    assert samples_to_certify(GOOD, Terms(horizon=10)) > usual


def test_a_level_waits_for_all_that_are_safer() -> None:
    certificates = Certificates(3, Terms())
    settle(certificates, [GOOD, EVEN, GOOD], 200)
    assert certificates.wealth[2] > 20
    assert certificates.in_force.tolist() == [True, False, False] and certificates.fastest == 0


def test_a_certificate_outlives_its_window_by_one_window_and_no_more() -> None:
    certificates = Certificates(1, Terms(window=100))
    settle(certificates, [GOOD], 100)
    settle(certificates, [EVEN], 100)
    assert certificates.window == 1 and certificates.samples == 100
    assert not certificates.proven.any() and certificates.in_force.all()
    settle(certificates, [EVEN], 1)
    assert certificates.window == 2 and not certificates.in_force.any()


def test_a_level_that_stays_good_stays_in_force_from_window_to_window() -> None:
    certificates = Certificates(1, Terms(window=100))
    settle(certificates, [GOOD], 100)
    for _ in range(400):
        settle(certificates, [GOOD], 1)
        assert certificates.in_force.all()
    assert certificates.window == 4 and certificates.alarms == 0


def test_a_drop_takes_the_level_out_of_force_long_before_its_window_ends() -> None:
    certificates = Certificates(2, Terms(window=2_000))
    settle(certificates, [GOOD, GOOD], 500)
    assert certificates.fastest == 1
    settle(certificates, [GOOD, BAD], 60)
    assert certificates.alarms == 1 and not certificates.in_force[1]
    assert certificates.window == 1 and certificates.samples < 60


def test_an_alarm_withdraws_safer_levels_too_until_they_are_proven_on_what_came_after_it() -> None:
    certificates = Certificates(3, Terms(window=2_000))
    settle(certificates, [GOOD] * 3, 500)
    while not certificates.alarms:
        settle(certificates, [EVEN, GOOD, BAD], 1)
    assert not certificates.in_force.any() and certificates.samples == 0
    settle(certificates, [EVEN, GOOD, BAD], 300)
    assert certificates.fastest == -1 and certificates.alarms == 1
    needed = samples_to_certify(GOOD, Terms())
    settle(certificates, [GOOD, GOOD, BAD], needed)
    assert certificates.in_force.tolist() == [True, True, False]


def test_a_drop_of_a_level_that_is_not_in_force_is_told_but_no_alarm() -> None:
    certificates = Certificates(2, Terms())
    settle(certificates, [GOOD, BAD], 300)
    assert certificates.in_force.tolist() == [True, False]
    assert certificates.broken.tolist() == [False, True] and certificates.alarms == 0


def test_after_an_alarm_a_level_is_certified_again_by_new_evidence_alone() -> None:
    certificates = Certificates(1, Terms(window=2_000))
    settle(certificates, [GOOD], 500)
    while certificates.fastest == 0:
        settle(certificates, [BAD], 1)
    needed = samples_to_certify(GOOD, Terms())
    settle(certificates, [GOOD], needed - 1)
    assert certificates.fastest == -1
    settle(certificates, [GOOD], 1)
    assert certificates.fastest == 0


def test_a_heavy_sample_counts_as_many() -> None:
    once, often = Certificates(1, Terms()), Certificates(1, Terms())
    small = 0.001  # where a weight of 4 is as good as 4 samples, but for the bets that it closes
    once.settle(np.array([small]), 4.0)
    settle(often, [small], 4)
    lost = BOLD[4 * BETS > MOST_STAKE].sum()
    assert once.wealth[0] - (1 - lost) == pytest.approx(often.wealth[0] - 1, abs=0.003)


def test_streams_side_by_side_are_what_each_is_alone() -> None:
    draw = np.random.default_rng(3)
    terms = Terms(window=80, alarm_delta=0.2)
    payoffs = np.where(draw.random((400, 5, 3)) < 0.02, -0.6, 0.12)
    payoffs[150:220, 2:4] -= 0.4
    weights = np.where(draw.random((400, 5)) < 0.02, 2.0, 1.0)
    together = Certificates(3, terms, streams=(5,))
    alone = [Certificates(3, terms) for _ in range(5)]
    seen = set()
    for now, weight in zip(payoffs, weights, strict=True):
        together.settle(now, weight)
        for stream, one in enumerate(alone):
            one.settle(now[stream], weight[stream])
            seen.add((one.fastest.item(), one.alarms.item() > 0))
            assert together.in_force[stream].tolist() == one.in_force.tolist()
            assert together.wealth[stream] == pytest.approx(one.wealth)
            assert (together.samples[stream], together.window[stream]) == (one.samples, one.window)
    assert len(seen) >= 4


def test_seeded_bets_certify_sooner() -> None:
    shares = np.full((1, even_shares().shape[-1]), 0.05)
    shares[0, 0] = 0.55
    seeded, even = Certificates(1, Terms(), shares=shares), Certificates(1, Terms())
    settle(seeded, [GOOD], 60)
    settle(even, [GOOD], 60)
    assert 0 < seeded.proven_after[0] < even.proven_after[0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"delta": 0.0}, "delta is 0.0"),
        ({"alarm_delta": 1.0}, "alarm_delta is 1.0"),
        ({"window": 0}, "window is 0"),
        ({"horizon": 0}, "horizon is 0"),
    ],
)
def test_terms_without_a_meaning_are_refused(given: dict[str, float], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Terms(**given)  # type: ignore[arg-type]


def test_certificates_of_no_level_are_refused() -> None:
    with pytest.raises(BadInput, match="no level"):
        Certificates(0, Terms())
