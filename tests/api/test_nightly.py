"""Calibration from traffic at a time of day: when it runs, what it runs, and what is logged of it."""

from __future__ import annotations

import ast
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from typing import Any

import pytest

from service.api import nightly as nightly_module
from service.api.nightly import Nightly, calibration_of
from service.settings import Settings

DONE = subprocess.CompletedProcess([], 0, "600 samples\n\ninstalled as fit 1\n", "")


def at(hour: int, minute: int, second: int = 0) -> datetime:
    return datetime(2024, 5, 1, hour, minute, second, tzinfo=UTC)


@pytest.mark.parametrize(
    ("now", "seconds"), [(at(2, 59), 60), (at(3, 0), 86_400), (at(3, 0, 1), 86_399), (at(0, 0), 10_800)]
)
def test_it_waits_for_the_next_time_of_day(now: datetime, seconds: float) -> None:
    assert Nightly("03:00", lambda _: DONE, lambda: now).wait_s() == seconds


def test_it_runs_when_the_time_has_come_and_ends_with_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    ran, waits = threading.Event(), iter([0.0])
    monkeypatch.setattr(Nightly, "wait_s", lambda _: next(waits, 3_600.0))

    def run(_: threading.Event) -> subprocess.CompletedProcess[str]:
        ran.set()
        return DONE

    with Nightly("03:00", run) as nightly:
        assert ran.wait(60)
    nightly._thread.join(60)
    assert not nightly._thread.is_alive()


def script(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Have Python run `code` where the command would be run."""
    popen = subprocess.Popen
    monkeypatch.setattr(
        nightly_module.subprocess,
        "Popen",
        lambda command, **how: popen([sys.executable, "-c", code, *command], **{**how, "cwd": None}),
    )


def test_it_runs_the_command_at_the_lowest_priority_with_the_key_beside_its_arguments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script(
        monkeypatch, "import os, sys; print([sys.argv[1:], os.environ.get('NER_ADMIN_KEY'), 'NER_PORT' in os.environ])"
    )
    monkeypatch.setenv("NER_PORT", "1")
    done = calibration_of("http://127.0.0.1:8000", "secret")(threading.Event())
    command, key, has_port = ast.literal_eval(done.stdout)
    assert command[:3] == ["nice", "-n", "19"]
    assert command[-3:] == ["calibrate", "--from-traffic", "http://127.0.0.1:8000"]
    assert key == "secret" and "secret" not in command and not has_port


def test_a_run_that_is_under_way_ends_with_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, "import time; time.sleep(600)")
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    done = calibration_of("http://127.0.0.1:8000", "secret")(stop)
    assert done.returncode == -signal.SIGKILL and "the server ended" in done.stderr


def test_a_run_that_takes_too_long_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, "import time; time.sleep(600)")
    monkeypatch.setattr(nightly_module, "LONGEST_S", 0.1)
    done = calibration_of("http://127.0.0.1:8000", "secret")(threading.Event())
    assert done.returncode == -signal.SIGKILL and "more than 0 s" in done.stderr


@pytest.mark.parametrize(
    ("run", "told"),
    [
        (lambda _: DONE, "installed as fit 1"),
        (
            lambda _: subprocess.CompletedProcess([], 2, "", "error: there are 3 samples\n"),
            "error: there are 3 samples",
        ),
    ],
    ids=["done", "refused"],
)
def test_what_came_of_it_is_logged(run: Any, told: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    Nightly("03:00", run).once()
    (record,) = caplog.records
    assert record.message == "calibrated from traffic" and record.data["told"] == told  # type: ignore[attr-defined]


def test_a_command_that_cannot_be_run_is_logged_and_the_next_one_comes(caplog: pytest.LogCaptureFixture) -> None:
    def run(_: threading.Event) -> subprocess.CompletedProcess[str]:
        raise FileNotFoundError("nice")

    Nightly("03:00", run).once()
    assert "did not run" in caplog.text


def test_the_time_is_one_of_a_day_and_off_by_default() -> None:
    assert Settings().calibrate_at == "" and Settings(calibrate_at="23:59").calibrate_at == "23:59"
    for wrong in ("24:00", "3:00", "03:60", "night"):
        with pytest.raises(ValueError, match="calibrate_at"):
            Settings(calibrate_at=wrong)
