"""Work that nobody waits for. The engine's worker does it while no request has a step to run, a layer at a time."""

from __future__ import annotations

from typing import Protocol

from service.stepping.stepper import Stepper


class IdleWork(Protocol):
    """Work that belongs to the engine's worker, and to no other thread."""

    @property
    def has_work(self) -> bool:
        """Whether there is any to do."""

    def run_layer(self, stepper: Stepper) -> None:
        """Do the next part, which takes about as long as a layer does. What it raises is logged, and ends nothing."""
