"""The store of the live policy: what is saved is loaded, what cannot be is refused, and any store will do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from service.exits.assets import ModelAssets
from service.exits.policies.budgeted import Budgeted
from service.exits.policies.full_depth import FullDepth
from service.policy.goals import Goals, Objective
from service.policy.live import LivePolicy
from service.policy.store import StateFolder, StateUnusable
from service.policy.versions import HistoryEntry
from tests.policy.live_ import change, minutes, record

FIRST = HistoryEntry(1, "2024-05-01T12:00:00.000+00:00", "start", "first start", None, record(FullDepth()))
SECOND = HistoryEntry(2, "later", "api", None, FIRST.after, record(Budgeted(2), Objective(100, 1.0)))


@pytest.fixture
def store(tmp_path: Path) -> StateFolder:
    return StateFolder(tmp_path, "tiny@1")


@pytest.fixture
def state(tmp_path: Path, store: StateFolder) -> Any:
    """A state file's content after two changes."""
    store.save((FIRST, SECOND))
    return json.loads((tmp_path / "exit_policy.json").read_text(encoding="utf-8"))


def refusal(folder: Path, state: Any) -> str:
    """Why a state file of this content cannot be loaded."""
    (folder / "exit_policy.json").write_text(json.dumps(state), encoding="utf-8")
    with pytest.raises(StateUnusable) as error:
        StateFolder(folder, "tiny@1").load()
    return str(error.value)


def test_what_is_saved_is_loaded(store: StateFolder) -> None:
    assert store.load() == ()
    for history in ((FIRST,), (FIRST, SECOND)):
        store.save(history)
        assert store.load() == history


def test_the_file_says_what_is_in_force_and_how_it_came_to_that(tmp_path: Path, store: StateFolder) -> None:
    store.save((FIRST, SECOND))
    depth, budget = {"strategy": "full_depth"}, {"strategy": "budgeted", "layer": 2}
    flown = {**budget, "autopilot": {"p95_ms": 100, "max_f1_loss": 1.0, "max_disagreement": None, "certified": False}}
    by = {"at": FIRST.at, "by": "start", "changed_by": "first start"}
    written = {
        "model": "tiny@1",
        "current": {"policy": flown, "version": 2, "updated_at": "later", "updated_by": "api"},
        "history": [
            {"version": 1, **by, "before": None, "after": depth},
            {"version": 2, "at": "later", "by": "api", "changed_by": None, "before": depth, "after": flown},
        ],
    }
    assert (tmp_path / "exit_policy.json").read_text(encoding="utf-8") == json.dumps(written, indent=1)


def test_a_file_of_another_model_is_refused_until_it_is_set_aside(tmp_path: Path, store: StateFolder) -> None:
    StateFolder(tmp_path, "other@2").save((FIRST,))
    for _ in range(2):
        with pytest.raises(StateUnusable, match=r"^the state file was of other@2$"):
            store.load()
    store.set_aside()
    assert store.load() == () and (tmp_path / "exit_policy.unusable-1").exists()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("at", 5, "version 1 was made at 5"),
        ("by", "somebody", "by 'somebody'"),
        ("by", ["api"], "by ['api']"),
        ("changed_by", 7, "was changed by 7"),
        ("before", "vee", "a policy that is no object"),
        ("after", [], "a policy that is no object"),
        ("after", {"strategy": "vee", "autopilot": 100}, "an objective of the autopilot that is no object"),
        ("after", {"strategy": "vee", "promise": 0.02}, "a promise that is no object"),
        ("version", 3, "not in order"),
        ("version", True, "expected integers of at least 1"),
        ("version", 0, "expected integers of at least 1"),
    ],
    ids=str,
)
def test_a_history_that_is_not_what_it_must_be_is_refused(
    tmp_path: Path, state: Any, field: str, value: object, message: str
) -> None:
    state["history"][0][field] = value
    assert message in refusal(tmp_path, state)


def test_a_history_that_ends_elsewhere_than_at_the_policy_in_force_is_refused(tmp_path: Path, state: Any) -> None:
    state["history"].pop()
    assert "the history ends at version 1" in refusal(tmp_path, state)


class Memory:
    """A store of another kind; what it keeps as text, it refuses with that text."""

    is_shared = False

    def __init__(self, kept: tuple[HistoryEntry, ...] | str = ()) -> None:
        self.kept, self.aside = kept, kept[:0]

    def load(self) -> tuple[HistoryEntry, ...]:
        if isinstance(self.kept, str):
            raise StateUnusable(self.kept)
        return self.kept

    def newest(self) -> HistoryEntry | None:
        return next(iter(self.load()[-1:]), None)

    def set_aside(self) -> str:
        self.kept, self.aside = (), self.kept
        return "aside"

    def save(self, history: Sequence[HistoryEntry]) -> None:
        self.kept = tuple(history)


def test_the_live_policy_goes_on_from_any_store() -> None:
    memory = Memory()
    before = LivePolicy(Goals.of("tiny@1", ModelAssets(4)), memory, now=minutes())
    change(before, strategy="budgeted", layer=2)
    after = LivePolicy(Goals.of("tiny@1", ModelAssets(4)), memory, now=minutes())
    assert (after.current, after.history()) == (before.current, before.history())
    assert memory.kept == tuple(reversed(after.history()))


def test_what_a_store_refuses_is_set_aside_and_the_history_says_why() -> None:
    memory = Memory("the keys were of another time")
    (entry,) = LivePolicy(Goals.of("tiny@1", ModelAssets(4)), memory, now=minutes()).history()
    assert (entry.version, entry.changed_by) == (1, "the keys were of another time")
    assert (memory.aside, memory.kept) == (entry.changed_by, (entry,))


def test_an_objective_that_only_history_remembers_need_not_fit_any_more(tmp_path: Path, state: Any) -> None:
    """Else one that a later version no longer allows would cost the policy in force."""
    outgrown = {"p95_ms": 0, "max_f1_loss": 1, "of_another_version": True}
    state["history"][0]["after"] = {"strategy": "vee", "autopilot": outgrown}
    (tmp_path / "exit_policy.json").write_text(json.dumps(state), encoding="utf-8")
    oldest, *_, newest = StateFolder(tmp_path, "tiny@1").load()
    assert oldest.after.objective == outgrown and newest.version == state["current"]["version"]
