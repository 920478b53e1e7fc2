"""The figure of `benchmarks.overload`: goodput against offered load, readable in print and in grey."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

STYLES = {"now": ("now", "#0072B2", "o", "-"), "before": ("before", "#D55E00", "s", "--")}  # Okabe and Ito's palette
Row = Mapping[str, Any]


def draw(rows: Sequence[Row], capacity: float, path: Path) -> None:
    """Draw a line for each checkout; both axes as multiples of the capacity, in requests a second."""
    _, axes = plt.subplots(figsize=(7, 4.5))
    for name, (label, colour, marker, line) in STYLES.items():
        points = sorted(
            (row["offered"] / capacity, row["goodput"] / capacity) for row in rows if row["checkout"] == name
        )
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker, linestyle=line, label=label)
    most = max((row["offered"] / capacity for row in rows), default=1.0)
    axes.plot([0.1, 1.0, most], [0.1, 1.0, 1.0], color="#444444", linewidth=0.8, linestyle=":", label="ideal")
    axes.set_xscale("log")
    axes.set_xlabel(f"offered load, as a multiple of the capacity ({capacity:.0f} requests/s)")
    axes.set_ylabel("answered within the time limit, likewise")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    plt.tight_layout()
    plt.savefig(path, dpi=150)
    plt.close()
