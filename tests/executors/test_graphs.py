"""Recordings: when work is recorded and when it is replayed, and what happens where it cannot be."""

from __future__ import annotations

import logging
from collections import Counter
from functools import partial

import pytest

from service.executors import graphs
from service.executors.graphs import Graphs, Work

Log = list[tuple[str, str]]


def recording(log: Log) -> Graphs:
    def record(work: Work) -> Work:
        log.append(("recorded", ""))
        return partial(replay, work)

    def replay(work: Work) -> None:
        log.append(("replayed", ""))
        work()

    return Graphs(record)


def test_work_is_done_as_it_is_once_then_recorded_then_replayed() -> None:
    log: Log = []
    of = recording(log)
    for _ in range(3):
        of.run("step", lambda: log.append(("done", "step")))
    done, recorded, replayed = ("done", "step"), ("recorded", ""), ("replayed", "")
    assert log == [done, recorded, replayed, done, replayed, done]
    assert (of.counts.launched, of.counts.recorded, of.counts.replayed) == (1, 1, 2)


def test_every_key_has_its_own_recording() -> None:
    log: Log = []
    of = recording(log)
    for key in ("one", "two", "one", "two", "one"):
        of.run(key, partial(log.append, ("done", key)))
    assert [key for what, key in log if what == "done"] == ["one", "two", "one", "two", "one"]
    assert of.counts.recorded == 2


def test_of_too_many_recordings_the_one_replayed_longest_ago_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "MOST", 2)
    log: Log = []
    of = recording(log)
    for key in ("one", "two", "one", "two", "one", "three", "three"):  # the last drops two
        of.run(key, lambda: None)
    before = of.counts.recorded
    of.run("one", lambda: None)
    assert of.counts.recorded == before == 3
    of.run("two", lambda: None)
    assert of.counts.recorded == 4


def test_what_cannot_be_recorded_is_told_once_and_done_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    def record(_: Work) -> Work:
        raise RuntimeError("operation not permitted when stream is capturing")

    of, done = Graphs(record), Counter[str]()
    with caplog.at_level(logging.WARNING):
        for key in ("one", "one", "two", "two", "one"):
            of.run(key, partial(done.update, [key]))
    assert done == {"one": 3, "two": 2} and of.has_failed
    assert len(caplog.records) == 1 and "launched kernel by kernel" in caplog.text


def test_errors_of_the_work_itself_are_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        recording([]).run("step", lambda: print(1 / 0))
