"""Controls on a clock that stands still between changes, and what is asked of them. No test lives here."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from service.engine.controls import Controls, PolicyVersion
from service.errors import BadInput
from service.exits.operating_points import Calibration
from tests.exits.strategies_ import model_of

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
) -> Controls:
    return Controls(
        model=model,
        assets=model_of(4),
        calibration=calibration,
        state_dir=folder,
        now=minutes(),
        on_change=on_change,
    )


def change(controls: Controls, **changes: Any) -> dict[str, Any]:
    return controls.change(changes, source="api")


def refusal(controls: Controls, changes: dict[str, Any]) -> str:
    """What is said to a change that cannot be; nothing has changed by it."""
    before, history = controls.describe(), controls.history()
    with pytest.raises(BadInput) as error:
        controls.change(changes, source="api")
    assert (controls.describe(), controls.history()) == (before, history)
    return str(error.value)
