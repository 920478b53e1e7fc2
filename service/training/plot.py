"""Draws the figure of a training run: dev F1 of every exit over the epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def plot_history(history: list[dict[str, Any]], path: Path) -> None:
    """Draw `dev_f1_per_exit` of every epoch into a PNG file."""
    from matplotlib.figure import Figure  # only training draws, and only once an epoch

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    epochs = [row["epoch"] for row in history]
    for exit_index in range(len(history[0]["dev_f1_per_exit"])):
        f1 = [100 * row["dev_f1_per_exit"][exit_index] for row in history]
        axes.plot(epochs, f1, marker="o", markersize=3, label=f"exit {exit_index + 1}")
    axes.set_xlabel("epoch")
    axes.set_ylabel("dev F1 x 100")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)
