"""Fits to the traffic come into force: here, in other processes, and with what is proven beginning anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.engine.samples import SampleRun
from service.errors import BadInput
from service.exits.policies.learned_on_traffic import LearnedOnTraffic
from service.exits.policy import ExitPolicy
from service.levels.fits import FitKeeper, SampleRecorder
from service.levels.on_traffic import TrafficLevels
from service.policy.live import LivePolicy
from service.policy.promised import PromiseGoal
from service.policy.traffic_fits import FITS_KEPT, TrafficFitFile
from tests.exits.calibrations_ import NUM_LAYERS
from tests.levels.promised_ import LEVELS, NOON, PROMISING, agreeing
from tests.policy.fits_ import fitted
from tests.policy.live_ import change, start

GOAL = PromiseGoal(0.5, confidence=0.8)


class Process:
    """A live policy, its levels, and what keeps both at the fits of a folder that processes share."""

    def __init__(self, folder: Path, name: str) -> None:
        file = TrafficFitFile(folder, "tiny@1 abc", NUM_LAYERS)
        self.live: LivePolicy = start(folder / name, calibration=PROMISING, fits=file.load())
        self.levels = TrafficLevels(self.live.levels(), self.live.levels_to_certify(), NUM_LAYERS, now=lambda: NOON)
        self.keeper = FitKeeper(self.live, self.levels, file, lambda: NOON)

    @property
    def tested(self) -> tuple[ExitPolicy, ...]:
        return self.live.levels_to_certify()


@pytest.fixture
def process(tmp_path: Path) -> Process:
    return Process(tmp_path, "one")


def measured(process: Process) -> set[int]:
    """How many samples each level was measured on."""
    return {found.estimate.samples for found in process.levels.measured().values()}


def test_what_is_installed_is_tested_and_measured_beside_the_models_own_points(process: Process) -> None:
    process.keeper.install(fitted(0.1, 0.2), NUM_LAYERS)
    assert [type(level) for level in process.tested] == [LearnedOnTraffic] * 2
    assert process.levels.scored == (*LEVELS[::-1], *process.tested[::-1])
    current = process.live.fits.current
    assert current is not None and (current.number, current.at) == (1, NOON.isoformat(timespec="milliseconds"))
    process.levels.test(GOAL)
    process.levels.add(agreeing())
    assert process.levels.measured()[process.tested[0]].is_certified is False
    assert process.levels.measured()[LEVELS[0]].is_certified is None


def test_evidence_begins_anew_since_the_points_were_chosen_by_what_was_seen_before(process: Process) -> None:
    process.levels.test(GOAL)
    for _ in range(5):
        process.levels.add(agreeing())
    process.keeper.install(fitted(0.1, 0.2), NUM_LAYERS)
    assert (process.levels.standing(), process.levels.samples) == (None, 5)
    assert measured(process) == {0}


def test_a_sample_that_was_scored_for_other_levels_is_not_counted_for_these(process: Process) -> None:
    before, scores = process.levels.scored, process.levels._scorer.score(agreeing().readings or [], [(0, 1)])
    process.keeper.install(fitted(0.1, 0.2), NUM_LAYERS)
    process.levels.take(scores, 1.0, 1.0, before)
    assert process.levels.samples == 1 and measured(process) == {0}


def test_the_way_back_is_an_earlier_fit_or_none(process: Process) -> None:
    process.keeper.install(fitted(0.1, 0.2), NUM_LAYERS)
    process.keeper.install(fitted(0.3), NUM_LAYERS)
    assert len(process.tested) == 1
    process.keeper.go_to(1)
    assert len(process.tested) == 2
    process.keeper.go_to(0)
    assert process.tested == LEVELS and process.levels.scored == LEVELS[::-1]
    with pytest.raises(BadInput, match="in_force is 7"):
        process.keeper.go_to(7)


def test_the_fit_whose_policy_is_in_force_is_never_given_up(process: Process) -> None:
    process.keeper.install(fitted(0.1, 0.2), NUM_LAYERS)
    change(process.live, **process.tested[0].to_json())
    for _ in range(FITS_KEPT + 2):
        process.keeper.install(fitted(0.1, 0.2), NUM_LAYERS)
    assert process.live.fits.kept[0].number == 1 and len(process.live.fits.kept) == FITS_KEPT


def test_another_process_follows(tmp_path: Path, process: Process) -> None:
    other = Process(tmp_path, "other")
    process.keeper.install(fitted(0.1, 0.2), NUM_LAYERS)
    assert other.tested == LEVELS
    other.keeper.look()
    assert other.tested == process.tested and other.levels.scored == process.levels.scored
    other.levels.add(agreeing())
    other.keeper.look()
    assert measured(other) == {1}  # where nothing has changed, nothing begins anew


def test_after_a_restart_the_fit_is_in_force_again(tmp_path: Path, process: Process) -> None:
    process.keeper.install(fitted(0.1, 0.2), NUM_LAYERS)
    again = Process(tmp_path, "one")
    again.keeper.look()
    assert again.tested == process.tested and again.live.fits.in_force == 1


def test_what_is_no_fit_changes_nothing(process: Process) -> None:
    with pytest.raises(BadInput, match="operating points of the traffic"):
        process.keeper.install({**fitted(0.1), "points": []}, NUM_LAYERS)
    assert process.tested == LEVELS and process.live.fits.kept == ()


def test_a_model_without_points_takes_none(tmp_path: Path) -> None:
    live = start(tmp_path)
    levels = TrafficLevels((), (), NUM_LAYERS, now=lambda: NOON)
    keeper = FitKeeper(live, levels, TrafficFitFile(tmp_path, "tiny@1 abc", NUM_LAYERS), lambda: NOON)
    with pytest.raises(BadInput, match="calibrate it first"):
        keeper.install(fitted(0.1), NUM_LAYERS)


def test_a_sample_that_could_not_be_run_leaves_no_record() -> None:
    recorder = SampleRecorder(10, NUM_LAYERS)
    recorder.add(SampleRun(None, (0, 1), 3, 1.0, 1.0))
    recorder.add(agreeing())
    assert recorder.records().pieces.tolist() == [3] and recorder.records().correct.tolist() == [[1] * NUM_LAYERS]
