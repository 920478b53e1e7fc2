"""An executor whose time is measured: the part of an engine's time that layers and exits take."""

from __future__ import annotations

import time
from typing import Any

from service.executors.executor import Executor, State
from service.exits.reading import Reading


class Watched:
    """An executor that also counts the seconds in which it was busy."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.config, self.max_step_pieces = executor.config, executor.max_step_pieces
        self.max_step_layers = executor.max_step_layers
        self.wait, self.describe, self.close = executor.wait, executor.describe, executor.close
        self.busy_s = 0.0

    def run_layer(self, *given: Any, **wishes: Any) -> tuple[list[State], Reading | None]:
        """See Executor."""
        started = time.perf_counter()
        found = self._executor.run_layer(*given, **wishes)
        self.busy_s += time.perf_counter() - started
        return found
