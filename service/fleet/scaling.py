"""How many replicas a fleet needs, by how busy they are and how far their autopilots had to go. Pure; knows no Ray.

Latency says nothing of that: an autopilot keeps it by giving up accuracy. So it is its level that tells of a load that
is too high, and the work that waits, since a worker is busy for as long as work waits for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

BUSY = 0.7  # of the time; above it, requests wait for each other
CALM = 0.4  # of the time; below it, fewer replicas are still not busy
WANTED = 0.55  # of the time, midway: so busy are the replicas whose number has changed
MORE = 1.25  # as many, while autopilots give up accuracy


class Context(Protocol):
    """What Serve tells a policy of scaling, as far as it is asked for here."""

    current_num_replicas: int
    target_num_replicas: int

    @property
    def aggregated_metrics(self) -> Mapping[str, Mapping[Any, float]] | None:
        """By name and replica, the means of what replicas told over Serve's look_back_period_s."""


def replicas_wanted(running: int, busy: float, level: float) -> int:
    """Return how many replicas there should be, as `docker/prometheus/rules/fleet.yml` says it for Kubernetes.

    running  replicas that answer, at least 1
    busy     their mean share of the time in which they are busy, 0 to 1
    level    the mean level of their autopilots; 0 if none gives up any accuracy for speed
    """
    enough = max(1, math.ceil(running * busy / WANTED))
    if busy > BUSY:
        return enough
    if level > 0:
        return math.ceil(running * MORE)
    return min(running, enough) if busy < CALM else running


def scale(context: Context) -> tuple[int, dict[str, Any]]:
    """Return how many replicas Serve should have, and no state: a policy of autoscaling, see Serve's configuration.

    Serve keeps to its own limits and delays. Its upscale_delay_s should be longer than its look_back_period_s: a mean
    is above 0 for that long after a single moment, and only a level that stays should count.
    """
    told = context.aggregated_metrics or {}
    if "busy" not in told or "level" not in told:  # nobody has told anything yet
        return context.target_num_replicas, {}
    busy, level = _mean(told["busy"].values()), _mean(told["level"].values())
    return replicas_wanted(max(1, context.current_num_replicas), busy, level), {}


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else 0.0
