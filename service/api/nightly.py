"""Calibration from traffic at a time of day: the command for it, run by the server in a process of its own."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

log = logging.getLogger(__name__)

LONGEST_S = 1_800.0  # that one run may take
_PROJECT = Path(__file__).resolve().parents[2]
LOOK_S = 0.5  # between two looks whether the server ends
Run = Callable[[threading.Event], subprocess.CompletedProcess[str]]
"""Runs something until it is done, or until the event is set."""


def calibration_of(url: str, admin_key: str) -> Run:
    """Return what runs the command on a server of ours, at the lowest priority."""
    command = ["nice", "-n", "19", sys.executable, "-m", "service", "calibrate", "--from-traffic", url]

    def run(stop: threading.Event) -> subprocess.CompletedProcess[str]:
        others = {name: value for name, value in os.environ.items() if not name.startswith("NER_")}
        environment = {**others, "NER_ADMIN_KEY": admin_key}  # not among the arguments, which others may see
        with subprocess.Popen(
            command, env=environment, cwd=_PROJECT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            latest = time.monotonic() + LONGEST_S
            while True:
                try:
                    output, errors = process.communicate(timeout=LOOK_S)
                    return subprocess.CompletedProcess(command, process.returncode, output, errors)
                except subprocess.TimeoutExpired:
                    if stop.is_set() or time.monotonic() > latest:
                        process.kill()
                        why = "the server ended" if stop.is_set() else f"it took more than {LONGEST_S:.0f} s"
                        return subprocess.CompletedProcess(command, -signal.SIGKILL, "", f"error: stopped, since {why}")

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
        self._stop.set()
        self._thread.join(4 * LOOK_S)  # a run that is under way ends

    def wait_s(self) -> float:
        """Return the seconds until the next time."""
        now = self._now()
        then = now.replace(hour=self._hour, minute=self._minute, second=0, microsecond=0)
        return (then - now if then > now else then + timedelta(days=1) - now).total_seconds()

    def once(self) -> None:
        """Run it, and log what came of it."""
        try:
            done = self._do(self._stop)
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
