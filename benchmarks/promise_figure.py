"""The figure of `benchmarks.promise`: what is lost by corpus, and when texts change; readable in print and in grey."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

STYLES = {  # of Okabe and Ito's palette
    "balanced": ("preset balanced", "#999999", "s"),
    "fast": ("preset fast", "#D55E00", "^"),
    "autopilot": ("autopilot in a peak, no certificates", "#CC79A7", "v"),
}
PROMISED = ("#0072B2", "#009E73", "#E69F00")  # by promise
Row = Mapping[str, Any]


def draw(found: Mapping[str, Sequence[Row]], path: Path) -> None:
    """Draw the loss by corpus, and below it the true disagreement of the level in force while texts change."""
    wishes = sorted({row["max_disagreement"] for row in found["promised"]})
    _, (by_corpus, *over_time) = plt.subplots(
        1 + len(found["changed"]) // len(wishes), 1, figsize=(9, 9), height_ratios=(1.6, 1, 1)
    )
    _by_corpus(by_corpus, found, wishes)
    pairs = list(dict.fromkeys((row["before"], row["after"]) for row in found["changed"]))
    for axes, pair in zip(over_time, pairs, strict=True):
        rows = [row for row in found["changed"] if (row["before"], row["after"]) == pair]
        _over_time(axes, rows)
    over_time[-1].set_xlabel("sampled sentences, from the change of texts on")
    plt.tight_layout()
    plt.savefig(path, dpi=150)
    plt.close()


def _by_corpus(axes: Axes, found: Mapping[str, Sequence[Row]], wishes: Sequence[float]) -> None:
    names = [row["corpus"] for row in found["uncertified"]]
    for number, (key, (label, colour, marker)) in enumerate(STYLES.items()):
        values = [100 * row["disagreement"][key] for row in found["uncertified"]]
        places = [place + 0.14 * (number - 2) for place in range(len(names))]
        axes.plot(places, values, marker, color=colour, label=label, markersize=6)
    for number, (wish, colour) in enumerate(zip(wishes, PROMISED, strict=True)):
        rows = [row for row in found["promised"] if row["max_disagreement"] == wish]
        places = [place + 0.14 * (number + 1) for place in range(len(names))]
        of_streams = [[100 * stream["disagreement"] for stream in row["streams"]] for row in rows]
        middle = [sum(values) / len(values) for values in of_streams]
        low = [mean - min(values) for mean, values in zip(middle, of_streams, strict=True)]
        high = [max(values) - mean for mean, values in zip(middle, of_streams, strict=True)]
        label = f"promise of at most {100 * wish:g} %: mean, least and most of {len(of_streams[0])} streams"
        axes.errorbar(places, middle, (low, high), fmt="o", color=colour, label=label, markersize=5, capsize=2)
        axes.axhline(100 * wish, color=colour, linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(names)), [name.replace("crossner_", "") for name in names], rotation=20)
    axes.set_ylabel("loss against full depth,\n100 - F1 of its answers")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3, axis="y")
    axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)


def _over_time(axes: Axes, rows: Sequence[Row]) -> None:
    for row, colour in zip(rows, PROMISED, strict=True):
        for stream in row["streams"]:
            when, values = zip(*stream["true_disagreement"], strict=True)
            axes.step(when, [100 * value for value in values], where="post", color=colour, linewidth=0.9, alpha=0.7)
        wish = row["max_disagreement"]
        axes.axhline(
            100 * wish, color=colour, linewidth=0.8, linestyle=":", label=f"promise of at most {100 * wish:g} %"
        )
    axes.axvline(0, color="#444444", linewidth=0.8)
    axes.set_title(f"{rows[0]['before']}, then {rows[0]['after']}", fontsize=9)
    axes.set_ylabel("loss of the level in force")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper left")
