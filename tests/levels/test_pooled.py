"""Samples of replicas are summed: one betting process for all, whatever becomes of the stream that they share."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.engine.samples import SampleRun
from service.levels import pooled as pooled_module
from service.levels.on_traffic import Standing, TrafficLevels
from tests.levels.pool_ import Fleet, Replica
from tests.levels.promised_ import LEVELS, NOON, NUM_LAYERS, agreeing, sample_run, wrong_if_fastest
from tests.policy.live_ import change

ENOUGH = 80  # samples in all that certify LEVELS where all agree


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    """Of two replicas, under a promise."""
    return Fleet(tmp_path)


def same(fleet: Fleet) -> Standing:
    """How far all replicas are: equally far, by the very same bets."""
    first, *others = fleet.look()
    assert first is not None and all(other == first for other in others)
    assert all(replica.levels.measured() == fleet.replicas[0].levels.measured() for replica in fleet.replicas)
    return first


def samples_until_certified(add: Callable[[], Standing | None]) -> int:
    """How often samples have to be added until all levels are certified."""
    for count in range(1, ENOUGH + 1):
        if (found := add()) is not None and found.certified.levels == LEVELS:
            return count
    raise AssertionError(f"not after {ENOUGH}")


# summed


def test_two_replicas_certify_after_half_the_samples_each_and_are_equally_far(fleet: Fleet) -> None:
    alone = TrafficLevels(LEVELS, LEVELS, NUM_LAYERS, now=lambda: NOON)
    alone.test(fleet.live.current.to_certify)

    def add() -> Standing | None:
        alone.add(agreeing())
        return alone.standing()

    needed = samples_until_certified(add)
    assert samples_until_certified(lambda: fleet.add(agreeing)[0]) == (needed + 1) // 2
    found = same(fleet)
    assert found.certified.levels == LEVELS and found.samples == 2 * ((needed + 1) // 2)
    assert [replica.levels.samples for replica in fleet.replicas] == [found.samples // 2] * 2
    assert {(replica.pooled.samples, replica.pooled.replicas) for replica in fleet.replicas} == {(found.samples, 2)}


def test_weights_and_samples_that_could_not_be_run_arrive_as_they_were(fleet: Fleet) -> None:
    one, other = fleet.replicas
    one.add(lambda: sample_run([1, 1, 1, 1], weight=3.7))
    other.add(lambda: sample_run([1, 1, 1, 1], weight=16.0))
    same(fleet)
    one.add(lambda: SampleRun(None, (0, 1), 3, 1.0, 1.0))
    assert same(fleet).samples == 3 and one.measured == 3


def test_an_alarm_at_one_is_an_alarm_at_all_and_no_news_to_who_comes_later(fleet: Fleet) -> None:
    fleet.add(agreeing, ENOUGH // 2)
    assert same(fleet).certified.levels == LEVELS
    while not fleet.replicas[1].alarms:
        fleet.replicas[0].add(wrong_if_fastest, 10)
        fleet.look()
    found = same(fleet)
    assert (found.alarms, found.certified.levels) == (1, ())
    fleet.replicas.append(fleet.newcomer())
    assert same(fleet).alarms == 1
    assert [replica.alarms for replica in fleet.replicas] == [["alarm"], ["alarm"], []]


def test_who_comes_later_or_again_takes_what_the_others_have_found(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.add(agreeing, ENOUGH // 2)
    monkeypatch.setattr(pooled_module, "MOST_AT_ONCE", ENOUGH // 2)
    newcomer = fleet.newcomer()
    fleet.replicas.append(newcomer)
    newcomer.add(agreeing)
    first = newcomer.look()
    assert first is not None and first.samples == ENOUGH // 2
    assert first.certified.levels == ()  # since it has not read all of it
    fleet.look()
    assert same(fleet).certified.levels == LEVELS and newcomer.measured == ENOUGH + 1


# the goal


def test_samples_from_before_the_goal_are_measured_and_are_no_evidence(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, promises=False)
    fleet.add(agreeing, 5)
    for replica in fleet.replicas:
        replica.add(agreeing)  # scored, and not yet sent
    fleet.promise()
    fleet.replicas.append(fleet.newcomer())
    assert same(fleet).samples == 0 and fleet.replicas[0].measured == 12
    fleet.add(agreeing, 2)
    assert same(fleet).samples == 6


def test_who_hears_of_a_goal_late_counts_what_others_have_sent_under_it(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, promises=False)
    early, late = fleet.replicas
    fleet.promise()
    early.add(agreeing, 3)
    for _ in range(3):
        early.look()
        late.pooled.test(None)
    assert late.measured == 3
    assert same(fleet).samples == late.measured == 3


def test_evidence_for_another_goal_begins_anew_and_the_same_goal_goes_on(fleet: Fleet) -> None:
    fleet.add(agreeing, 2)
    fleet.promise()  # with the same numbers
    fleet.replicas.append(fleet.newcomer())
    assert same(fleet).samples == 4
    change(fleet.live, max_disagreement=0.2)
    assert same(fleet).samples == 0
    change(fleet.live, max_disagreement=None)
    assert fleet.look() == [None] * 3
    fleet.promise()
    assert same(fleet).samples == 0 and fleet.replicas[0].measured == 4


# the stream is away, or another one


def test_while_the_stream_is_away_each_counts_its_own_once(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "service.levels.pooled")
    one, other = fleet.replicas
    fleet.add(agreeing, 2)
    fleet.stream.is_away = True
    one.add(agreeing, 3)
    one.look()
    one.add(agreeing, 4)
    tries = fleet.stream.tries
    found = one.pooled.test(fleet.live.current.to_certify)
    assert fleet.stream.tries == tries  # so soon it is not asked again
    assert found is not None and found.samples == 4 + 3 + 4 and one.pooled.fault == "the stream is away"
    fleet.stream.is_away = False
    fleet.look()
    assert fleet.add(agreeing, 2) == [one.levels.standing(), other.levels.standing()]
    assert (one.measured, other.measured) == (4 + 7 + 4, 4 + 4)
    assert one.pooled.fault is None
    assert [record.message for record in caplog.records] == [
        "samples are counted here alone",
        "samples are summed again",
    ]


def test_a_replica_without_the_stream_certifies_and_raises_alarms_by_itself(fleet: Fleet) -> None:
    one = fleet.replicas[0]
    fleet.stream.is_away = True
    one.add(agreeing, ENOUGH)
    found = one.look()
    assert found is not None and found.certified.levels == LEVELS
    while not one.alarms:
        one.add(wrong_if_fastest, 10)
        one.look()
    found = one.look()
    assert found is not None and found.certified.levels == ()


def test_a_sample_that_was_sent_without_an_answer_counts_once_everywhere(fleet: Fleet) -> None:
    one, other = fleet.replicas
    fleet.add(agreeing, 2)
    fleet.stream.loses_answers = True
    one.add(agreeing, 3)
    one.look()
    assert len(fleet.stream.entries) == 4 + 3 and one.measured == 4 + 3
    fleet.stream.loses_answers = False
    assert same(fleet).samples == other.measured == 4 + 3
    fleet.add(agreeing)
    assert same(fleet).samples == 4 + 3 + 2


def test_a_stream_that_comes_back_empty_costs_no_evidence_and_counts_nothing_twice(fleet: Fleet) -> None:
    fleet.add(agreeing, 10)
    fleet.stream.entries.clear()
    fleet.stream.milliseconds += 5
    fleet.add(agreeing, 10)
    assert same(fleet).samples == fleet.replicas[0].measured == 40
    newcomer = fleet.newcomer()
    newcomer.look()
    assert newcomer.measured == 20


def test_a_stream_that_comes_back_with_a_clock_that_is_behind_is_read_on(fleet: Fleet) -> None:
    fleet.add(agreeing, 10)
    fleet.stream.entries.clear()
    fleet.stream.milliseconds -= 3_600_000
    fleet.add(agreeing)  # by which they find out; who does so late misses what came before
    before = [replica.measured for replica in fleet.replicas]
    assert all(20 < count <= 22 for count in before)
    fleet.add(agreeing, 10)
    assert [replica.measured - count for replica, count in zip(fleet.replicas, before, strict=True)] == [20, 20]


def test_of_more_samples_than_may_wait_those_that_come_last_are_left_out_whatever_they_show(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pooled_module, "MOST_WAITING", 5)
    one = fleet.replicas[0]
    one.add(agreeing, 7)
    assert (one.skipped, one.levels.samples) == (["no_room"] * 2, 7)
    assert same(fleet).samples == 5


# what lies in the stream and is no sample of ours


def entry(fleet: Fleet, **changes: object) -> bytes:
    """A sample of a replica that there is not, with some of its fields changed."""
    fleet.replicas[1].add(agreeing)
    fleet.look()
    told: dict[str, Any] = json.loads(fleet.stream.entries[-1][1])
    return json.dumps({**told, "replica": "else", **changes}).encode()


@pytest.mark.parametrize(
    "changes",
    [
        {"weight": 0.5},
        {"weight": 2.0, "heaviest": 1.0},
        {"heaviest": 17.0},
        {"weight": float("nan")},
        {"weight": "1"},
        {"weight": None},
        {"exit_layers": [0, 1, 1]},
        {"exit_layers": [1, 1, NUM_LAYERS + 1]},
        {"exit_layers": [1, 1]},
        {"exit_layers": [1.0, 1.0, 1.0]},
        {"exit_layers": 1},
        {"true_positives": [-1, 1, 1]},
        {"true_positives": [10**6, 1, 1]},
        {"true_positives": [10**30, 1, 1]},
        {"false_positives": [[1], [1], [1]]},
        {"false_negatives": {}},
        {"version": 0},
        {"version": True},
        {"version": 10**20},
        {"number": "1"},
        {"replica": ""},
        {"replica": "x" * 100},
        {"replica": 7},
    ],
    ids=str,
)
def test_an_entry_with_impossible_figures_is_skipped(fleet: Fleet, changes: dict[str, object]) -> None:
    fleet.stream.append(entry(fleet, **changes))
    before = same(fleet)
    assert before.samples == 1 and [replica.skipped for replica in fleet.replicas] == [["unreadable"]] * 2


def test_what_is_no_entry_is_skipped_counted_and_logged_once(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    torn = (b"", b"{", b"[]", b"7", b'"levels"', b"null", b"\xff\xfe", b"[" * 30_000, b'{"levels": []}', b"{}")
    good = entry(fleet)
    for text in (*torn, good[:-20]):
        fleet.stream.append(text)
    fleet.add(agreeing)
    assert same(fleet).samples == 3
    one = fleet.replicas[0]
    told = len(torn)
    assert one.skipped.count("unreadable") + one.skipped.count("other_levels") == told + 1
    change(fleet.live, max_disagreement=0.2)  # and so the stream is read again
    same(fleet)
    assert len(one.skipped) == told + 1
    logged = [record for record in caplog.records if record.message == "samples skipped"]
    assert len(logged) == len(fleet.replicas)


def test_samples_that_were_scored_for_other_weights_are_not_summed(fleet: Fleet) -> None:
    other = Replica(fleet.live, fleet.stream, of="other weights")
    for _ in range(2):
        other.look()
        other.add(agreeing, 3)
    other.look()
    fleet.add(agreeing)
    assert same(fleet).samples == 2
    assert fleet.replicas[0].skipped == ["other_levels"] * 6 and other.measured == 6
