"""A state folder that several processes share: nothing is overwritten, and a change is noticed at once."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from service.exits.assets import ModelAssets
from service.exits.policies.budgeted import Budgeted
from service.exits.policies.full_depth import FullDepth
from service.policy.follower import PolicyFollower
from service.policy.goals import Goals
from service.policy.live import LivePolicy
from service.policy.shared_folder import SharedStateFolder
from service.policy.store import StoreMovedOn
from service.policy.versions import HistoryEntry
from tests.api.servers_ import wait_until
from tests.policy.live_ import change, minutes, record

FIRST = HistoryEntry(1, "2024-05-01T12:00:00.000+00:00", "start", "first start", None, record(FullDepth()))
SECOND = HistoryEntry(2, "later", "api", None, FIRST.after, record(Budgeted(2)))
OTHER = HistoryEntry(2, "later", "api", None, FIRST.after, record(Budgeted(3)))


def opened(folder: Path) -> SharedStateFolder:
    store = SharedStateFolder(folder, "tiny@1")
    store.load()
    return store


def test_a_save_that_does_not_follow_what_was_read_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    one, other = opened(tmp_path), opened(tmp_path)
    one.save((FIRST,))
    with pytest.raises(StoreMovedOn):
        other.save((OTHER,))
    assert other.load() == (FIRST,)
    other.save((FIRST, SECOND))
    with pytest.raises(StoreMovedOn):
        one.save((FIRST, OTHER))
    with pytest.raises(StoreMovedOn):
        one.set_aside()
    assert one.load() == (FIRST, SECOND)


def test_a_process_that_waits_is_told_at_once(tmp_path: Path) -> None:
    one, other = opened(tmp_path), opened(tmp_path)
    threading.Timer(0.1, one.save, [(FIRST,)]).start()
    started = time.monotonic()
    other.wait(30.0)
    assert time.monotonic() - started < 10
    assert other.newest() == FIRST
    started = time.monotonic()
    other.wait(0.2)
    assert time.monotonic() - started >= 0.2  # nothing new


def test_changes_of_many_processes_at_once_are_all_kept_in_order_and_reach_all(tmp_path: Path) -> None:
    stores = [SharedStateFolder.within(tmp_path, "tiny@1") for _ in range(4)]
    lives = [LivePolicy(Goals.of("tiny@1", ModelAssets(4)), store, now=minutes()) for store in stores]
    followers = [PolicyFollower(live, store) for live, store in zip(lives, stores, strict=True)]
    for follower in followers:
        follower.start()

    def change_often(live: LivePolicy) -> None:
        for number in range(8):
            change(live, strategy="budgeted", layer=1 + number % 4)

    threads = [threading.Thread(target=change_often, args=(live,)) for live in lives]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(lambda: {live.current.version for live in lives} == {33})
    for follower in followers:
        follower.close()
    histories = [live.history() for live in lives]
    assert histories == [histories[0]] * 4
    assert [entry.version for entry in histories[0]] == list(range(33, 0, -1))
