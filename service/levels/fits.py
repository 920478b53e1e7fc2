"""What calibration from traffic reads and installs: the records of samples, and the fits that are in force.

engine --(samples.SampleRun)--> SampleRecorder --(GET /exit-policy/samples)--> `calibrate --from-traffic`, elsewhere
POST /exit-policy/fits --> FitKeeper, also a thread --> file --> live policy and TrafficLevels, in every process
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from service.engine.samples import SampleRun
from service.errors import BadInput
from service.exits.policies.learned_on_traffic import LearnedOnTraffic
from service.levels.on_traffic import TrafficLevels
from service.policy.live import LivePolicy
from service.policy.thread import LookingThread
from service.policy.traffic_fits import TrafficFit, TrafficFitFile, TrafficFits
from service.promise.records import RecordBuffer, SampleRecords

PERIOD_S = 1.0  # between two looks at whether another process has changed the file
PAUSE_S = 30.0  # after one that failed


class SampleRecorder:
    """Keeps the records of the latest samples. The engine's worker adds to it, and any thread may read."""

    def __init__(self, most: int, num_layers: int) -> None:
        """most: samples that are kept."""
        self._lock = threading.Lock()
        self._buffer = RecordBuffer(most, num_layers)

    def add(self, run: SampleRun) -> None:
        """Record a sample; one that could not be run tells nothing."""
        if run.readings is not None:
            with self._lock:
                self._buffer.add(run.readings, run.owned, run.num_pieces, run.weight)

    def records(self) -> SampleRecords:
        """Return what is kept, oldest first."""
        with self._lock:
            return self._buffer.records()


class FitKeeper(LookingThread):
    """Puts fits to the traffic in force: those that are installed here, and those that another process has written."""

    def __init__(
        self, live: LivePolicy, levels: TrafficLevels, file: TrafficFitFile, now: Callable[[], datetime]
    ) -> None:
        """Keep what `live` and `levels` begin with, the fits of `file`. now: returns the wall clock in UTC."""
        failure = "the fits to the traffic could not be read"
        super().__init__("fit-keeper", period_s=PERIOD_S, pause_s=PAUSE_S, failure=failure)
        self._live = live
        self._levels = levels
        self._file = file
        self._now = now
        self._lock = threading.Lock()

    def look(self) -> None:
        """Put in force what another process has written. Raises OSError."""
        with self._lock:
            if self._file.has_changed:
                self._put_in_force(self._file.load())

    def install(self, fitted: Mapping[str, Any], num_layers: int) -> None:
        """Put what was fitted in force, under the next number. Raises BadInput for what is no fit, and OSError."""
        at = self._now().isoformat(timespec="milliseconds")

        def with_new(fits: TrafficFits) -> TrafficFits:
            fit = TrafficFit.from_json({**fitted, "fit": fits.next_number, "at": at}, num_layers)
            policy = self._live.current.policy
            return fits.with_new(fit, policy.fit if isinstance(policy, LearnedOnTraffic) else None)

        self._change(with_new)

    def go_to(self, number: object) -> None:
        """Put another fit in force, 0 for the model's own points alone. Raises BadInput and OSError."""
        self._change(lambda fits: fits.with_in_force(number))

    def _change(self, make: Callable[[TrafficFits], TrafficFits]) -> None:
        if not self._live.levels_to_certify():
            raise BadInput("this model has no operating points beside which others could stand; calibrate it first")
        with self._lock:
            self._put_in_force(self._file.change(make))

    def _put_in_force(self, fits: TrafficFits) -> None:
        """Evidence begins anew where other points are in force, since they were chosen by what was seen before."""
        before = self._live.fits.in_force
        self._live.set_fits(fits)
        if fits.in_force != before:
            self._levels.look_at(self._live.levels(), self._live.levels_to_certify())
