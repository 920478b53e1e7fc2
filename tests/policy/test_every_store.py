"""What every policy store must keep, be it the state folder or Redis."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from service.exits.assets import ModelAssets
from service.exits.policies.budgeted import Budgeted
from service.exits.policies.full_depth import FullDepth
from service.policy.goals import Goals, Objective
from service.policy.live import LivePolicy
from service.policy.shared_folder import SharedStateFolder
from service.policy.store import PolicyStore, StateFolder
from service.policy.versions import HistoryEntry
from tests.policy.live_ import change, minutes, record
from tests.policy.redis_ import Replicas, needs_redis

FIRST = HistoryEntry(1, "2024-05-01T12:00:00.000+00:00", "start", "first start", None, record(FullDepth()))
SECOND = HistoryEntry(2, "later", "api", "Åda ✓", FIRST.after, record(Budgeted(2), Objective(100, 1.0)))
Open = Callable[[], PolicyStore]


@pytest.fixture(params=["folder", "shared folder", pytest.param("redis", marks=needs_redis)])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens one and the same store, as one process after another does."""
    if request.param == "folder":
        return lambda: StateFolder(tmp_path, "tiny@1")
    if request.param == "shared folder":
        return lambda: SharedStateFolder(tmp_path, "tiny@1")
    replicas: Replicas = request.getfixturevalue("replicas")
    return replicas.store


def live_on(store: PolicyStore) -> LivePolicy:
    return LivePolicy(Goals.of("tiny@1", ModelAssets(4)), store, now=minutes())


def test_an_empty_store_has_nothing(opened: Open) -> None:
    assert opened().load() == () and opened().newest() is None


def test_what_is_saved_is_loaded_also_by_another_process(opened: Open) -> None:
    store = opened()
    store.load()
    for history in ((FIRST,), (FIRST, SECOND)):
        store.save(history)
        assert store.load() == opened().load() == history
        assert store.newest() == opened().newest() == history[-1]


def test_what_is_set_aside_is_no_longer_there_and_the_place_is_told(opened: Open) -> None:
    store = opened()
    store.load()
    store.save((FIRST, SECOND))
    store.load()
    assert "unusable-" in store.set_aside()
    assert store.load() == () and opened().newest() is None
    store.save((FIRST,))
    assert opened().load() == (FIRST,)


def test_a_restart_finds_the_policy_in_force_and_its_history(opened: Open) -> None:
    before = live_on(opened())
    change(before, strategy="budgeted", layer=2)
    change(before, layer=3)
    after = live_on(opened())
    assert (after.current, after.history()) == (before.current, before.history())
    assert (after.current.policy, after.current.version) == (Budgeted(3), 3)
    assert change(after, rollback_to=2).version == 4 and after.current.policy == Budgeted(2)


def test_the_store_keeps_as_many_changes_as_the_history_has(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("live", "redis_store"):
        monkeypatch.setattr(f"service.policy.{module}.HISTORY_LENGTH", 3)
    live = live_on(opened())
    for patience in range(1, 6):
        change(live, patience=patience)
    assert [entry.version for entry in opened().load()] == [4, 5, 6]
    assert live_on(opened()).history() == live.history()
