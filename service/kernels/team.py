"""The threads of a step: the caller leads, the others help. Idle helpers wait a moment, then sleep."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np

from service.kernels.layout import LAYER, STEP
from service.kernels.sharing import LINE, RING, WANTED, take_part
from service.kernels.spare_cores import SpareCores
from service.kernels.stages import NUM_STAGES
from service.kernels.tiles import load


class Team:
    """Runs steps over the layers that `layers` describes, on up to `threads` threads; for one caller at a time."""

    def __init__(self, layers: np.ndarray[Any, Any], threads: int, cores: int) -> None:
        """Start the helpers; layers: (num_layers,) records of LAYER; cores: that the process may use."""
        if layers.dtype != LAYER:
            raise TypeError(f"layers are records of LAYER, given {layers.dtype}")
        load()  # before any kernel is linked to it
        self._layers = layers
        self._steps = np.zeros(RING, dtype=STEP)
        self._counters = np.zeros((RING, NUM_STAGES, 2 * LINE), dtype=np.int64)
        self._control = np.zeros((threads, LINE), dtype=np.int64)
        self._control[0, WANTED] = threads
        self._spare = SpareCores(threads, cores)
        self._leader: int | None = None  # the thread of the latest caller
        self._clocks: list[int] = []
        self._bells = [threading.Semaphore(0) for _ in range(threads - 1)]
        self._asleep = [False] * (threads - 1)
        self._helpers = [
            threading.Thread(target=self._help, args=(helper,), name=f"helper-{helper}", daemon=True)
            for helper in range(1, threads)
        ]
        for thread in self._helpers:
            thread.start()

    @property
    def threads(self) -> int:
        """The number of threads, including that of the caller."""
        return len(self._control)

    def run(self, description: np.ndarray[Any, Any]) -> int:
        """Run a step and return the number of entities found; description: the int64 words of a record of STEP."""
        wanted = self._wanted() if self._helpers else 1
        for index in range(wanted - 1):
            if self._asleep[index]:
                self._asleep[index] = False
                self._bells[index].release()
        found: int = take_part(self._steps, self._layers, self._counters, self._control, 0, 0, description)
        return found

    def _wanted(self) -> int:
        """Return how many threads take part in the next step, and let the helpers know."""
        if not hasattr(time, "pthread_getcpuclockid"):  # macOS
            return self.threads
        if (leader := threading.get_native_id()) != self._leader:
            team = [threading.get_ident(), *(helper.ident for helper in self._helpers if helper.is_alive())]
            self._leader, self._clocks = leader, [time.pthread_getcpuclockid(ident) for ident in team if ident]
        wanted = self._spare.wanted(self._clocks)
        self._control[0, WANTED] = wanted
        return wanted

    def close(self) -> None:
        """End the helpers."""
        store = self._control
        store[0, 0] = -1
        for bell in self._bells:
            bell.release()
        for thread in self._helpers:
            thread.join()

    def _help(self, helper: int) -> None:
        seen, nothing = 0, np.zeros(0, dtype=np.int64)
        while seen >= 0:
            seen = take_part(self._steps, self._layers, self._counters, self._control, helper, seen, nothing)
            if seen < 0:
                return
            self._asleep[helper - 1] = True
            if self._control[0, 0] == seen or self._control[0, WANTED] <= helper:  # else a step has come just now
                self._bells[helper - 1].acquire()
