"""A live policy on a clock that stands still between changes, and what is asked of them. No test lives here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from service.errors import BadInput
from service.exits.assets import ModelAssets
from service.exits.operating_points import Calibration
from service.exits.policy import ExitPolicy
from service.policy.goals import Goals, Objective
from service.policy.live import LivePolicy
from service.policy.store import StateFolder
from service.policy.traffic_fits import TrafficFits
from service.policy.versions import PolicyRecord, PolicyState, PolicyVersion

START = datetime(2024, 5, 1, 12, tzinfo=UTC)


def minutes() -> Callable[[], datetime]:
    """A wall clock that moves on by a minute whenever it is read."""
    ticks = iter(range(10_000))
    return lambda: START + timedelta(minutes=next(ticks))


def start(
    folder: Path,
    *,
    model: str = "tiny@1",
    calibration: Calibration | None = None,
    on_change: Callable[[PolicyVersion], None] = lambda _: None,
    fits: TrafficFits | None = None,
) -> LivePolicy:
    goals = Goals.of(model, ModelAssets(4), calibration)
    goals = goals if fits is None else goals.with_fits(fits)
    return LivePolicy(goals, StateFolder(folder, model), now=minutes(), on_change=on_change)


def change(live: LivePolicy, **changes: Any) -> PolicyState:
    return live.change(changes, source="api")


def record(policy: ExitPolicy, objective: Objective | None = None) -> PolicyRecord:
    """What is remembered of a policy."""
    return PolicyRecord(policy.to_json(), asdict(objective) if objective else None)


def refusal(live: LivePolicy, changes: dict[str, Any]) -> str:
    """What is said to a change that cannot be; nothing has changed by it."""
    before, history = live.describe(), live.history()
    with pytest.raises(BadInput) as error:
        live.change(changes, source="api")
    assert (live.describe(), live.history()) == (before, history)
    return str(error.value)
