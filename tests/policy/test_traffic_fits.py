"""Fits to the traffic: which are kept and in force, what they mean to goals and policies, and their file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.errors import BadInput
from service.exits.assets import ModelAssets
from service.exits.catalog import PolicyCatalog
from service.exits.policies.full_depth import FullDepth
from service.exits.policies.learned_on_traffic import LearnedOnTraffic
from service.exits.policy import ExitPolicy
from service.policy.live import LivePolicy
from service.policy.traffic_fits import FITS_KEPT, MOST_POINTS, TrafficFit, TrafficFitFile, TrafficFits
from tests.exits.calibrations_ import CALIBRATION, NUM_LAYERS
from tests.levels.promised_ import LEVELS, PROMISING
from tests.policy.fits_ import fit, fitted
from tests.policy.live_ import change, refusal, start

ONE, TWO = fit(1), fit(2, 0.3, 0.4, 0.5)
BOTH = TrafficFits((ONE, TWO), 2)


# which are kept


def test_a_new_fit_is_in_force_under_the_next_number_and_the_oldest_goes() -> None:
    fits = TrafficFits()
    assert (fits.next_number, fits.current) == (1, None)
    for number in range(1, FITS_KEPT + 3):
        fits = fits.with_new(fit(fits.next_number), needed=2)
        assert fits.current is not None and fits.current.number == number
    assert [one.number for one in fits.kept] == [2, *range(4, FITS_KEPT + 3)]


def test_there_is_a_way_back_to_any_fit_that_is_kept_and_to_none() -> None:
    assert BOTH.current is TWO and BOTH.with_in_force(1).current is ONE
    assert BOTH.with_in_force(0).current is None and BOTH.with_in_force(0).kept == BOTH.kept
    assert BOTH.with_in_force(0).next_number == 3
    for wrong in (3, -1, True, "1", 1.0):
        with pytest.raises(BadInput, match=r"expected one of \[0, 1, 2\]: a fit, or 0 for the model's own points"):
            BOTH.with_in_force(wrong)


def test_a_fit_survives_the_way_to_json_and_back() -> None:
    written = json.loads(json.dumps(TWO.to_json()))
    assert TrafficFit.from_json(written, NUM_LAYERS).to_json() == TWO.to_json()
    parameters = {"strategy": "learned_on_traffic", "tau": 0.5, "deepest_exit": 3, "fit": 2}
    assert dict(TWO.points[0].parameters) == parameters


def without(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda made: made.pop(name)


REFUSED: dict[str, Callable[[dict[str, Any]], object]] = {
    "no rule": without("rule"),
    "a rule of other features": lambda made: made["rule"]["features"].reverse(),
    "no points": lambda made: made["points"].clear(),
    "too many points": lambda made: made["points"].extend(made["points"] * MOST_POINTS),
    "a point without a threshold": lambda made: made["points"][0].pop("tau"),
    "a threshold out of range": lambda made: made["points"][0].update(tau=-1.0),
    "a figure that is none": lambda made: made["points"][0].update(f1="high"),
    "a figure too many": lambda made: made["points"][0].update(luck=1.0),
    "points that are none": lambda made: made.update(points=[1, 2]),
    "no number": lambda made: made.update(fit=0),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_fit_is_refused(name: str) -> None:
    made = {**fitted(0.1, 0.2), "fit": 1, "at": "noon"}
    REFUSED[name](made)
    with pytest.raises(BadInput, match="operating points of the traffic"):
        TrafficFit.from_json(made, NUM_LAYERS)


# what they mean


def test_a_catalog_has_the_policies_of_all_fits_and_defaults_of_the_one_in_force() -> None:
    plain = PolicyCatalog(ModelAssets(NUM_LAYERS))
    assert "learned_on_traffic" not in plain.strategies
    catalog = BOTH.catalog(plain)
    policy = catalog.policy({"strategy": "learned_on_traffic"})
    assert policy.to_json() == dict(TWO.points[1].parameters)  # the fastest within 1 point of full depth
    earlier = catalog.policy({"strategy": "learned_on_traffic", "tau": 0.1, "fit": 1})
    assert isinstance(earlier, LearnedOnTraffic) and earlier.exit_rule() is ONE.rule
    assert TrafficFits((ONE,), 1).catalog(catalog).policy(dict(ONE.points[0].parameters)).to_json()["fit"] == 1
    with pytest.raises(BadInput, match="fit is 2; expected one of the fits"):
        TrafficFits((ONE,), 1).catalog(catalog).policy(dict(TWO.points[0].parameters))
    assert "learned_on_traffic" not in TrafficFits().catalog(catalog).strategies


def test_a_policy_of_a_fit_is_the_same_whichever_others_are_kept() -> None:
    plain = PolicyCatalog(ModelAssets(NUM_LAYERS))
    one, other = (fits.catalog(plain).policy(dict(ONE.points[0].parameters)) for fits in (BOTH, TrafficFits((ONE,))))
    assert one == other and hash(one) == hash(other)


@pytest.fixture
def live(tmp_path: Path) -> LivePolicy:
    return start(tmp_path, calibration=PROMISING)


def taus(levels: tuple[ExitPolicy, ...]) -> list[float]:
    return [level.to_json()["tau"] for level in levels]


def test_points_of_the_fit_in_force_are_tested_in_place_of_the_models_own_and_offered_beside_them(
    live: LivePolicy,
) -> None:
    before = live.current
    live.set_fits(BOTH)
    assert taus(live.levels_to_certify()) == [0.3, 0.4, 0.5]  # the safest first
    assert len(live.levels()) == len(PROMISING.points) + 3 and live.current == before
    live.set_fits(BOTH.with_in_force(0))
    assert live.levels_to_certify() == LEVELS and len(live.levels()) == len(PROMISING.points)


def test_what_was_measured_of_a_point_is_expected_of_it(live: LivePolicy) -> None:
    live.set_fits(BOTH)
    state = change(live, strategy="learned_on_traffic", tau=0.1, deepest_exit=3, fit=1)
    assert state.in_force.expected == ONE.points[1].expected() and state.preset is None


def test_a_restart_restores_a_policy_of_a_fit(tmp_path: Path, live: LivePolicy) -> None:
    live.set_fits(BOTH)
    change(live, **dict(TWO.points[0].parameters))
    again = start(tmp_path, calibration=PROMISING, fits=BOTH)
    assert again.current.policy == live.current.policy
    lost = start(tmp_path, calibration=PROMISING, fits=TrafficFits((ONE,), 1))
    assert lost.current.policy != live.current.policy and "fit is 2" in (lost.history()[0].changed_by or "")


def test_an_autopilot_of_certified_levels_goes_on_with_those_of_the_fit(live: LivePolicy) -> None:
    change(live, autopilot={"p95_ms": 100, "max_f1_loss": 1.2, "max_disagreement": 0.02, "certified": True})
    live.set_fits(BOTH)
    ladder = live.current.ladder
    assert ladder is not None and ladder.policies[0] == FullDepth()
    assert taus(ladder.policies[1:]) == [0.3, 0.4]  # what loses more than 1.2 is never used
    change(live, autopilot={"max_f1_loss": 0.1})
    assert live.current.ladder is not None and live.current.ladder.policies == (FullDepth(),)


def test_without_fits_the_strategy_is_refused_with_what_makes_one(live: LivePolicy) -> None:
    assert "calibrate --from-traffic" in refusal(live, {"strategy": "learned_on_traffic"})


def test_the_models_own_rule_stays_as_it_is(tmp_path: Path) -> None:
    live = start(tmp_path, calibration=CALIBRATION)
    before = change(live, strategy="learned", tau=0.5).in_force.policy
    live.set_fits(BOTH)
    assert change(live, strategy="learned", tau=0.5).in_force.policy == before


# the file


def file_in(folder: Path, model: str = "tiny@1 abc") -> TrafficFitFile:
    return TrafficFitFile(folder, model, NUM_LAYERS)


def test_what_one_process_writes_another_one_sees_and_reads(tmp_path: Path) -> None:
    mine, other = file_in(tmp_path), file_in(tmp_path)
    assert mine.load() == TrafficFits() and not mine.has_changed
    written = other.change(lambda fits: fits.with_new(ONE, None))
    assert mine.has_changed and not other.has_changed
    assert mine.load().to_json() == written.to_json() and not mine.has_changed
    other.change(lambda fits: fits.with_in_force(0))
    assert mine.load().in_force == 0


def test_a_change_that_is_refused_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = file_in(tmp_path)
    file.change(lambda fits: fits.with_new(ONE, None))
    with pytest.raises(BadInput):
        file.change(lambda fits: fits.with_in_force(9))
    assert file.load().in_force == 1


@pytest.mark.parametrize("content", ["{", "[]", '{"model": "tiny@1 abc"}', '{"model": "tiny@2 abc", "fits": []}'])
def test_a_file_that_cannot_be_used_is_set_aside(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "traffic_fits.json").write_text(content, encoding="utf-8")
    assert file_in(tmp_path).load() == TrafficFits()
    assert (tmp_path / "traffic_fits.unusable-1").read_text(encoding="utf-8") == content
    assert "set aside" in caplog.text
    (tmp_path / "traffic_fits.json").write_text("another", encoding="utf-8")
    file_in(tmp_path).load()
    kept = [(tmp_path / f"traffic_fits.unusable-{number}").read_text(encoding="utf-8") for number in (1, 2)]
    assert kept == [content, "another"]
