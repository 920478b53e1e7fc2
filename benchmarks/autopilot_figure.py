"""The figure of `benchmarks.autopilot`: latency, level and exit layer over time, readable in print and in grey."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import matplotlib

from benchmarks.load_trials import GOAL_MS, Phase

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

STYLES = {  # of Okabe and Ito's palette
    "full_depth": ("fixed full depth", "#D55E00", "s"),
    "autopilot": ("autopilot", "#0072B2", "o"),
}
Row = Mapping[str, Any]


def draw(rows: Sequence[Row], phases: Sequence[Phase], num_levels: int, path: Path) -> None:
    """Draw panels one above the other: p50 and p99 by second of arrival, autopilot's level, average exit layer."""
    _, (latency, level, layer) = plt.subplots(3, 1, figsize=(9, 8), sharex=True, height_ratios=(3, 1, 1))
    for row in rows:
        _latency(latency, row)
        name, colour, marker = STYLES[row["policy"]]
        when, layers = zip(*row["average_exit_layers"], strict=True)
        layer.plot(when, layers, color=colour, marker=marker, markersize=3, linewidth=1, label=name)
        if row["policy"] == "autopilot":
            moves = [(0.0, 0), *row["moves"]]
            moves.append((sum(seconds for _, seconds in phases), moves[-1][1]))
            level.step(*zip(*moves, strict=True), where="post", color=colour)
    latency.axhline(GOAL_MS, color="#444444", linewidth=0.8, linestyle=":")
    latency.annotate(f"{GOAL_MS:.0f} ms", (0.005, GOAL_MS * 1.1), xycoords=("axes fraction", "data"), fontsize=8)
    latency.set_yscale("log")
    latency.set_ylabel("latency in ms, by second of arrival")
    latency.legend(fontsize=8, loc="upper right")
    level.set_ylabel("level")
    level.set_yticks(range(num_levels))
    layer.set_ylabel("average exit layer")
    layer.set_ylim(bottom=0)
    layer.set_xlabel("seconds")
    starts = accumulate((seconds for _, seconds in phases), initial=0.0)
    for axes in (latency, level, layer):
        axes.grid(alpha=0.3)
        axes.axvspan(phases[0][1], phases[0][1] + phases[1][1], color="#999999", alpha=0.15, linewidth=0)
    for (rate, _), start in zip(phases, starts, strict=False):
        place = (start + 0.3, 1.02)
        latency.annotate(f"{rate:.0f} texts/s", place, xycoords=("data", "axes fraction"), fontsize=9)
    plt.tight_layout()
    plt.savefig(path, dpi=150)
    plt.close()


def _latency(axes: Axes, row: Row) -> None:
    """Draw p50 and p99; seconds whose requests were not answered in time leave a gap."""
    name, colour, marker = STYLES[row["policy"]]
    when = [second["second"] + 0.5 for second in row["seconds"]]
    for quantile, line, fill in (("p99", "-", colour), ("p50", "--", "white")):
        values = [second[f"{quantile}_ms"] for second in row["seconds"]]
        label = f"{name}, {quantile}"
        axes.plot(when, values, color=colour, marker=marker, ms=4, mfc=fill, ls=line, lw=1.2, label=label)
