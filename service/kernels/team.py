"""The threads of a step: the caller leads, the others help. Idle helpers wait a moment, then sleep."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from service.kernels.layout import LAYER, STEP
from service.kernels.sharing import LINE, RING, take_part
from service.kernels.stages import NUM_STAGES
from service.kernels.tiles import load


class Team:
    """Runs steps over the layers that `layers` describes, on `threads` threads; for one caller at a time."""

    def __init__(self, layers: np.ndarray[Any, Any], threads: int) -> None:
        """Start the helpers; layers: (num_layers,) records of LAYER."""
        if layers.dtype != LAYER:
            raise TypeError(f"layers are records of LAYER, given {layers.dtype}")
        load()  # before any kernel is linked to it
        self._layers = layers
        self._steps = np.zeros(RING, dtype=STEP)
        self._counters = np.zeros((RING, NUM_STAGES, 2 * LINE), dtype=np.int64)
        self._control = np.zeros((threads, LINE), dtype=np.int64)
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
        for index, is_asleep in enumerate(self._asleep):
            if is_asleep:
                self._asleep[index] = False
                self._bells[index].release()
        found: int = take_part(self._steps, self._layers, self._counters, self._control, 0, 0, description)
        return found

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
            if self._control[0, 0] == seen:  # else a step has come just now
                self._bells[helper - 1].acquire()
