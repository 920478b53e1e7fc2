"""The figures of `benchmarks.capacity`, readable in print and in grey."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from benchmarks.load_trials import GOAL_MS

POLICIES = {  # of Okabe and Ito's palette
    "full depth": ("#000000", "s", ":"),
    "early exit": ("#0072B2", "o", "--"),
    "early exit with autopilot": ("#D55E00", "^", "-"),
}
ROUTINGS = {
    "random": ("#000000", "s", ":"),
    "round-robin": ("#E69F00", "v", "-."),
    "least-loaded": ("#0072B2", "o", "--"),
    "length-aware": ("#D55E00", "^", "-"),
}
Row = Mapping[str, Any]


def draw_validation(rows: Sequence[Row], path: Path) -> None:
    """Draw what was measured and what was simulated against the load: p50, p99 and goodput."""
    _, axes = plt.subplots(1, 3, figsize=(11, 3.6))
    names = {"p50_ms": "p50, ms", "p99_ms": "p99, ms", "goodput": f"answers a second within {GOAL_MS:.0f} ms"}
    for axis, (name, label) in zip(axes, names.items(), strict=True):
        for processes, colour in ((1, "#0072B2"), (2, "#D55E00")):
            own = [row for row in rows if row["processes"] == processes]
            rates = [row["rate"] for row in own]
            plural = "process" if processes == 1 else "processes"
            for source, marker, line in (("measured", "o", "-"), ("simulated", "x", "--")):
                values = [row[source][name] for row in own]
                axis.plot(rates, values, line, color=colour, marker=marker, label=f"{source}, {processes} {plural}")
        axis.set_xlabel("requests a second")
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    _save(path)


def draw_fleet(found: Mapping[str, Any], path: Path) -> None:
    """Draw p99 against load by routing, a day by policy, and the loss of a replica at the peak."""
    _, axes = plt.subplots(2, 2, figsize=(11, 7.5))
    _routings(axes[0][0], found["routings"])
    _losses(axes[0][1], found["losses"])
    for axis, (name, rows) in zip(axes[1], found["days"].items(), strict=True):
        _day(axis, rows, f"a day with as many replicas {name}")
    _save(path)


def _routings(axes: Axes, rows: Sequence[Row]) -> None:
    for routing, (colour, marker, line) in ROUTINGS.items():
        own = [row for row in rows if row["routing"] == routing and row["p99_ms"] is not None]
        rates = [row["rate"] for row in own]
        axes.plot(rates, [row["p99_ms"] for row in own], line, color=colour, marker=marker, label=routing)
    axes.set_xlabel("requests a second and replica, early exit")
    _in_ms(axes)


def _losses(axes: Axes, rows: Sequence[Row]) -> None:
    for policy, (colour, marker, line) in POLICIES.items():
        own = [row for row in rows if row["policy"] == policy and row["p99_ms"] is not None]
        seconds = [row["second"] for row in own]
        axes.plot(seconds, [row["p99_ms"] for row in own], line, color=colour, marker=marker, label=policy)
    axes.axvline(0, color="#444444", linewidth=0.8)
    axes.set_xlabel("seconds from the loss of a tenth of the replicas, at the peak")
    _in_ms(axes)


def _day(axes: Axes, rows: Sequence[Row], title: str) -> None:
    for policy, (colour, marker, line) in POLICIES.items():
        own = [row for row in rows if row["policy"] == policy and row["p99_ms"] is not None]
        hours = [row["hour"] + 0.5 for row in own]
        axes.plot(hours, [row["p99_ms"] for row in own], line, color=colour, marker=marker, ms=4, label=policy)
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("hour of the day")
    axes.set_xticks(range(0, 25, 3))
    _in_ms(axes)


def _in_ms(axes: Axes) -> None:
    axes.axhline(GOAL_MS, color="#444444", linewidth=0.8, linestyle=":")
    axes.set_ylabel("p99, ms")
    axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _save(path: Path) -> None:
    plt.tight_layout()
    plt.savefig(path, dpi=110)
    plt.close()
