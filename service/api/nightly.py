"""Calibration from traffic at a time of day: the command for it, run by the server in a process of its own."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

log = logging.getLogger(__name__)

LONGEST_S = 1_800.0  # that one run may take
_PROJECT = Path(__file__).resolve().parents[2]
Run = Callable[[], subprocess.CompletedProcess[str]]


def calibration_of(url: str, admin_key: str) -> Run:
    """Return what runs the command on a server of ours, at the lowest priority."""
    command = ["nice", "-n", "19", sys.executable, "-m", "service", "calibrate", "--from-traffic", url]

    def run() -> subprocess.CompletedProcess[str]:
        others = {name: value for name, value in os.environ.items() if not name.startswith("NER_")}
        environment = {**others, "NER_ADMIN_KEY": admin_key}  # not among the arguments, which others may see
        return subprocess.run(
            command, env=environment, cwd=_PROJECT, capture_output=True, text=True, timeout=LONGEST_S, check=False
        )

    return run


class Nightly:
    """A daemon thread that runs something once a day, and logs what came of it."""

    def __init__(self, at: str, run: Run, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """at: HH:MM in UTC."""
        self._hour, self._minute = map(int, at.split(":"))
        self._do = run
        self._now = now
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="nightly", daemon=True)

    def __enter__(self) -> Nightly:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()  # a run that is under way ends with this process, or installs nothing

    def wait_s(self) -> float:
        """Return the seconds until the next time."""
        now = self._now()
        then = now.replace(hour=self._hour, minute=self._minute, second=0, microsecond=0)
        return (then - now if then > now else then + timedelta(days=1) - now).total_seconds()

    def once(self) -> None:
        """Run it, and log what came of it."""
        try:
            done = self._do()
        except (OSError, subprocess.SubprocessError) as error:
            log.error("calibration from traffic did not run: %s", error)
            return
        lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
        told = log.info if done.returncode == 0 else log.warning
        told("calibrated from traffic", extra={"data": {"code": done.returncode, "told": _last(lines)}})

    def _run(self) -> None:
        while not self._stop.wait(self.wait_s()):
            self.once()


def _last(lines: Sequence[str]) -> str:
    return lines[-1] if lines else ""
