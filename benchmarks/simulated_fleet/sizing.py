"""How many replicas a load needs, and what becomes of them in a day, and when some are lost: a cell, scaled up.

A cell is a balancer with some replicas. A load of many cells is so many cells: requests are spread over them by chance,
so each has its share of a Poisson process, which is one again, and none knows of the others. With routing at random a
replica is a cell of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import zip_longest
from typing import Any

import numpy as np

from benchmarks.load_trials import GOAL_MS, search
from benchmarks.simulated_fleet.costs import Costs
from benchmarks.simulated_fleet.figures import Figures, figures
from benchmarks.simulated_fleet.process import Flight, Served
from benchmarks.simulated_fleet.recording import Recording
from benchmarks.simulated_fleet.routing import ROUTERS
from benchmarks.simulated_fleet.simulation import Fleet, Outcome, simulate
from benchmarks.simulated_fleet.traffic import HOURS, arrivals, of_day, share_of_peak
from service.autopilot.law import ControlLaw
from service.spans.types import DoubleArray

RATES = (1_000, 10_000, 100_000, 1_000_000)  # requests a second at the peak
OBJECTIVE_MS = 50.0  # the p95 that the autopilot keeps, where p99 is to be within 100 ms
PRESET = "balanced"
SEARCH_STEP = 1.04
LOWEST_START = 50.0  # requests a second and replica, at which the search begins
LOST, TEN = 0.1, 10  # of the replicas, at the peak; in a cell of ten, so that it is one
SHARES = (0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2)  # of the capacity, at which routings are compared
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is simulated.

    cell      replicas of a cell
    seconds   of a trial, behind warm_up_s, in which an autopilot finds its level
    hour_s    how long an hour of the day lasts
    day_cell  replicas of the cell of a day
    """

    costs: Costs
    recording: Recording
    cores: int
    processes: int = 1
    cell: int = 8
    seconds: float = 4.0
    warm_up_s: float = 4.0
    hour_s: float = 5.0
    day_cell: int = 4
    seed: int = 1

    @property
    def loop_s(self) -> float:
        """The seconds that a request takes of the event loop, on average, while it is busy."""
        python, pieces = self.costs.python, self.recording.pieces
        return python.take + python.reply + python.piece * sum(pieces) / len(pieces)

    def policies(self) -> dict[str, Served]:
        """Return what is compared."""
        names = self.recording.ladder()
        speeds = tuple(self.recording.levels[name].speed for name in names)
        flight = Flight(tuple(names), ControlLaw(speeds, OBJECTIVE_MS / 1_000))
        return {
            "full depth": Served("full_depth"),
            "early exit": Served(PRESET),
            "early exit with autopilot": Served(names[0], flight),
        }

    def fleet(self, served: Served, replicas: int, routing: str) -> Fleet:
        """Return a cell."""
        return Fleet(served, replicas, self.cores, self.processes, routing)

    def run(self, fleet: Fleet, due: DoubleArray, losses: Mapping[float, int] | None = None) -> Outcome:
        """Simulate a cell."""
        return simulate(fleet, self.costs, self.recording, due, seed=self.seed, losses=losses)

    def trial(self, fleet: Fleet, rate: float) -> Figures:
        """Return the figures of a cell at a rate, once warm."""
        end = self.warm_up_s + self.seconds
        outcome = self.run(fleet, arrivals(rate, end, self.seed))
        return figures(outcome.between(self.warm_up_s, end), self.seconds, self.recording)

    def capacity(self, fleet: Fleet, start: float) -> float:
        """Return the largest rate of a cell, per replica, that keeps p99 within the goal and refuses hardly any."""

        def keeps_goal(rate: float) -> bool:
            return self.trial(fleet, rate * fleet.replicas).keeps_goal

        return search(keeps_goal, keeps_goal, start, SEARCH_STEP)


def simulated(plan: Plan, executor: Executor, keep: Callable[[Iterable[Row]], list[Row]] = list) -> Row:
    """Return all that the page at scale tells of fleets, as plain JSON types.

    keep  makes a list of rows as they come, for whoever wants to see them
    """
    found = keep(capacities(plan, executor))
    of_cells = [row for row in found if row["routing"] == "least-loaded" and row["replicas"] == plan.cell]
    best = {row["policy"]: row["rate"] for row in of_cells}
    at_peak = {policy: (1 - LOST) * rate for policy, rate in best.items()}
    day_rates = {f"as {policy} needs": at_peak[policy] for policy in ("full depth", "early exit")}
    return {
        "cell": plan.cell,
        "processes": plan.processes,
        "cores": plan.cores,
        "seconds": {"trial": plan.seconds, "warm_up": plan.warm_up_s, "hour": plan.hour_s},
        "objective_ms": OBJECTIVE_MS,
        "preset": PRESET,
        "loop_us": 1e6 * plan.loop_s,
        "capacities": found,
        "sizes": keep(sizes(found)),
        "routings": keep(routings(plan, best["early exit"], executor)),
        "day_rates": day_rates,
        "days": {name: keep(days(plan, rate, executor)) for name, rate in day_rates.items()},
        "losses": keep(losses(plan, at_peak, executor)),
    }


def capacities(plan: Plan, executor: Executor) -> Iterator[Row]:
    """Yield the capacity per replica of every policy: of cells of all sizes under least-loaded, of one under others.

    Raises SystemExit if there is none.
    """
    sizes = [2**power for power in range(int(math.log2(plan.cell)) + 1)]
    asked = [
        (policy, routing, replicas)
        for policy in plan.policies()
        for routing in ROUTERS
        for replicas in (sizes if routing == "least-loaded" else (1,) if routing == "random" else (plan.cell,))
    ]
    yield from executor.map(partial(_capacity, plan), *zip(*asked, strict=True))


def _capacity(plan: Plan, policy: str, routing: str, replicas: int) -> Row:
    fleet = plan.fleet(plan.policies()[policy], replicas, routing)
    rate = plan.capacity(fleet, LOWEST_START)
    if not rate:
        raise SystemExit(
            f"{policy} keeps p99 within {GOAL_MS:.0f} ms at no rate, by these costs; measure them again, with shorter "
            "texts or on a machine that is faster or has nothing else to do"
        )
    told = figures_of(plan.trial(fleet, rate * replicas))
    return {"policy": policy, "routing": routing, "replicas": replicas, "rate": rate, **told}


def figures_of(found: Figures) -> Row:
    """Return figures as plain JSON types; null for a quantile that there is not."""
    return {name: value if math.isfinite(value) else None for name, value in asdict(found).items()}


def replicas_for(rate: float, by_size: Mapping[int, float], lost: float = 0.0) -> int:
    """Return how many replicas a rate needs, so many that those left keep the goal when a share of them is lost.

    by_size  the capacity per replica, by the replicas of a cell; a cell of a size between has that of the next smaller
    """
    sizes = sorted(by_size)
    needed = 1
    for size, above in zip_longest(sizes, sizes[1:]):
        needed = max(size, math.ceil(rate / by_size[size]))
        if above is None or needed < above:
            break
    total = max(needed, int(needed / (1 - lost)) - 1)
    while total - math.ceil(total * lost) < needed:
        total += 1
    return total


def sizes(rows: Sequence[Row]) -> list[Row]:
    """Return how many replicas each policy needs at every rate, under least-loaded routing."""
    found = []
    for policy in dict.fromkeys(row["policy"] for row in rows):
        of_policy = [row for row in rows if row["policy"] == policy and row["routing"] == "least-loaded"]
        by_size = {row["replicas"]: row["rate"] for row in of_policy}
        for rate in RATES:
            found.append(
                {
                    "policy": policy,
                    "rate": rate,
                    "replicas": replicas_for(rate, by_size),
                    "with_spare": replicas_for(rate, by_size, LOST),
                    "by_hour": [replicas_for(rate * share, by_size, LOST) for share in _shares()],
                    "f1_loss": of_policy[-1]["f1_loss"],
                }
            )
    return found


def _shares() -> list[float]:
    """Return the highest share of the peak in every hour of the day."""
    minutes = [[hour + minute / 60 for minute in range(61)] for hour in range(HOURS)]
    return [float(share_of_peak(np.array(of_hour)).max()) for of_hour in minutes]


def routings(plan: Plan, capacity: float, executor: Executor) -> Iterator[Row]:
    """Yield the figures of a cell under every routing, at shares of a capacity per replica; policy `early exit`."""
    asked = [(capacity, routing, share) for routing in ROUTERS for share in SHARES]
    yield from executor.map(partial(_routing, plan), *zip(*asked, strict=True))


def _routing(plan: Plan, capacity: float, routing: str, share: float) -> Row:
    fleet = plan.fleet(plan.policies()["early exit"], plan.cell, routing)
    found = plan.trial(fleet, share * capacity * plan.cell)
    return {"routing": routing, "share": share, "rate": share * capacity, **figures_of(found)}


def days(plan: Plan, rate: float, executor: Executor) -> list[Row]:
    """Return by policy and hour the figures of a day whose peak is `rate` per replica."""
    return [row for rows in executor.map(partial(_day, plan, rate), plan.policies()) for row in rows]


def _day(plan: Plan, rate: float, policy: str) -> list[Row]:
    replicas, rows = plan.day_cell, []
    due = arrivals(rate * replicas, HOURS * plan.hour_s, plan.seed, of_day(plan.hour_s))
    outcome = plan.run(plan.fleet(plan.policies()[policy], replicas, "least-loaded"), due)
    for hour in range(HOURS):
        start, end = hour * plan.hour_s, (hour + 1) * plan.hour_s
        found = figures(outcome.between(start, end), plan.hour_s, plan.recording)
        levels = [level for when, level in outcome.levels if start <= when < end]
        mean_level = sum(levels) / len(levels) if levels else None
        rows.append({"policy": policy, "hour": hour, "level": mean_level, **figures_of(found)})
    return rows


def losses(plan: Plan, by_policy: Mapping[str, float], executor: Executor) -> list[Row]:
    """Return what a cell of ten goes through when one is lost at the peak, by policy and second.

    by_policy  the peak's rate per replica before the loss: what nine tenths of the replicas can just serve
    """
    found = executor.map(partial(_loss, plan), by_policy, by_policy.values())
    return [row for rows in found for row in rows]


def _loss(plan: Plan, policy: str, rate: float) -> list[Row]:
    lost_at = plan.warm_up_s + 2.0
    end = math.ceil(lost_at) + 5
    fleet = plan.fleet(plan.policies()[policy], TEN, "least-loaded")
    outcome = plan.run(fleet, arrivals(rate * TEN, end, plan.seed), {lost_at: round(LOST * TEN)})
    rows = []
    for second in range(int(plan.warm_up_s), end):
        calls = outcome.between(second, second + 1)
        told = figures_of(figures(calls, 1.0, plan.recording))
        in_hand = sum(call.status == "lost" for call in calls)
        rows.append({"policy": policy, "second": second - lost_at, "lost": in_hand, **told})
    return rows
