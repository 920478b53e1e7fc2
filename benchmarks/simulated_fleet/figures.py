"""What an outcome comes to, in the terms of `benchmarks.load_trials`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.load_trials import GOAL_MS, MOST_REFUSED, quantile
from benchmarks.simulated_fleet.process import Call
from benchmarks.simulated_fleet.recording import Recording


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of the requests of some seconds. Rates are per second; latencies count from when a request was due.

    refused  the share of 429
    failed   the share of those that were answered too late, or lost with their replica
    goodput  answers within GOAL_MS
    f1_loss  what calibration expects of the policies that decided, F1 x 100 below full depth, on average over answers
    """

    offered: float
    p50_ms: float
    p99_ms: float
    refused: float
    failed: float
    goodput: float
    f1_loss: float

    @property
    def keeps_goal(self) -> bool:
        """Whether p99 is within GOAL_MS, under one per cent was refused, and nothing failed."""
        return self.p99_ms <= GOAL_MS and self.refused < MOST_REFUSED and self.failed == 0


def figures(calls: Sequence[Call], seconds: float, recording: Recording) -> Figures:
    """Return the figures of the calls of so many seconds."""
    latencies = sorted(1_000 * (call.done - call.due) for call in calls if call.status == "answered")
    count = max(1, len(calls))
    refused = sum(call.status == "refused" for call in calls)
    losses = [recording.levels[call.level].f1_loss for call in calls if call.status == "answered"]
    return Figures(
        offered=len(calls) / seconds,
        p50_ms=quantile(latencies, 0.5),
        p99_ms=quantile(latencies, 0.99),
        refused=refused / count,
        failed=(len(calls) - refused - len(latencies)) / count,
        goodput=sum(latency <= GOAL_MS for latency in latencies) / seconds,
        f1_loss=math.fsum(losses) / max(1, len(losses)),
    )
