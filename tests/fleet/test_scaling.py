"""How many replicas: more while they are busy or give up accuracy, fewer when calm, but never so few as are busy."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from service.fleet.scaling import BUSY, CALM, WANTED, replicas_wanted, scale


@dataclass
class Told:
    """What Serve tells."""

    current_num_replicas: int
    target_num_replicas: int
    aggregated_metrics: dict[str, dict[str, float]] | None = field(default_factory=dict)


@pytest.mark.parametrize(("running", "busy", "wanted"), [(1, 0.71, 2), (2, 1.0, 4), (10, 0.75, 14), (10, 1.0, 19)])
def test_busy_replicas_get_as_many_others_as_make_them_less_busy(running: int, busy: float, wanted: int) -> None:
    assert replicas_wanted(running, busy, level=0) == wanted


def test_a_level_above_0_asks_for_another_replica_however_idle_all_are() -> None:
    assert replicas_wanted(3, busy=0.1, level=0.25) == 4
    assert replicas_wanted(10, busy=0.1, level=0.25) == 13
    assert replicas_wanted(3, busy=1.0, level=3.0) == 6


@pytest.mark.parametrize("busy", [CALM, WANTED, BUSY])
def test_between_calm_and_busy_nothing_changes(busy: float) -> None:
    assert replicas_wanted(4, busy, level=0) == 4


@pytest.mark.parametrize("running", [1, 2, 3, 10, 49])
@pytest.mark.parametrize("busy", [0.0, 0.1, 0.3, 0.399])
def test_calm_replicas_become_fewer_and_those_that_stay_are_not_busy(running: int, busy: float) -> None:
    wanted = replicas_wanted(running, busy, level=0)
    assert 1 <= wanted <= running and running * busy / wanted <= WANTED
    assert wanted < running or running <= 3


def test_means_count_over_the_replicas_that_have_told() -> None:
    told = {"busy": {"a": 0.9, "b": 0.7}, "level": {"a": 0.0, "b": 0.0}, "running_requests": {"a": 7.0}}
    assert scale(Told(2, 2, told)) == (3, {})  # 80 %
    told = {"busy": {"a": 0.9, "b": 0.2}, "level": {"a": 0.0, "b": 0.0}}
    assert scale(Told(2, 2, told)) == (2, {})
    assert scale(Told(2, 2, {**told, "level": {"a": 1.0, "b": 0.0}})) == (3, {})


@pytest.mark.parametrize("told", [None, {}, {"busy": {"a": 0.9}}, {"running_requests": {"a": 7.0}}])
def test_before_anybody_has_told_anything_nothing_changes(told: dict[str, dict[str, float]] | None) -> None:
    assert scale(Told(1, 3, told)) == (3, {})
