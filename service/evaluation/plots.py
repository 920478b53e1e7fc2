"""Draws the plots of a report. Marker, line and colour all differ, for print in grey and for the colour-blind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from service.evaluation.study import Pair, Study
from service.evaluation.sweep import Outcome
from service.exits.policies.vee import Vee

MEASURE_MARKERS = "o^sDvP<X>p"
Axis = Callable[[Outcome], float]


def draw_exits(studies: Sequence[Study], path: Path) -> None:
    """Draw F1 and mean entropy of every exit, which shows overthinking (Fig. 1 of VEE-BERT)."""
    with _figure(studies, path) as panels:
        for axes, study in panels:
            layers = range(1, study.test.num_layers + 1)
            f1 = [pair.test.f1 for pair in study.families["budgeted"]]
            axes.plot(layers, f1, "o-", color="#000000", label="F1 (left)")
            axes.set_xlabel("exit layer")
            axes.set_ylabel("F1, test")
            beside = axes.twinx()
            beside.plot(layers, study.entropy, "s--", color="#D55E00", label="mean entropy (right)")
            beside.set_ylabel("mean normalised entropy")
            lines = [*axes.get_lines(), *beside.get_lines()]
            axes.legend(lines, [str(line.get_label()) for line in lines], loc="center right", fontsize=8)


def draw_trade_off(studies: Sequence[Study], path: Path, *, in_time: bool) -> None:
    """Draw F1 against depth or time for every strategy, with policies chosen on dev (Fig. 3 and 7 of VEE-BERT)."""
    with _figure(studies, path) as panels:
        for axes, study in panels:
            along = _time(study) if in_time else _layers
            for key, family in study.kinds.items():
                if (style := family.style) is not None:
                    look = {"color": style.colour, "marker": style.marker, "linestyle": style.line}
                    _curve(axes, study.front(key), along, label=family.title, **look)
            axes.plot(along(study.oracle), study.oracle.f1, "*", color="#F0E442", mec="black", ms=13, label="oracle")
            axes.axhline(study.full.test.f1, color="#444444", linewidth=0.8, linestyle=":")
            axes.annotate("full depth", (0.99, study.full.test.f1), xycoords=("axes fraction", "data"), ha="right")
            axes.set_xlabel("time / time of full depth, one sentence at a time" if in_time else "average exit layer")
            axes.set_ylabel("F1, test")
            axes.set_ylim(study.families["budgeted"][0].test.f1 - 0.5, study.full.test.f1 + 0.8)
        panels[0][0].legend(fontsize=7, loc="lower right")


def draw_ensemble(studies: Sequence[Study], path: Path) -> None:
    """Draw VEE with and without the cross-layer ensemble (Fig. 4 and 8 of VEE-BERT)."""
    with _figure(studies, path) as panels:
        for axes, study in panels:
            plain = [pair for pair in study.families["vee/kl/mean"] if _patience(pair) == 1]
            _curve(axes, plain, _layers, label="without ensemble", color="#000000", marker="o", linestyle="-")
            _curve(axes, study.ensemble, _layers, label="with ensemble", color="#D55E00", marker="s", linestyle="--")
            axes.set_xlabel("average exit layer")
            axes.set_ylabel("F1, test")
        panels[0][0].legend(fontsize=8, loc="lower right")


def draw_measures(studies: Sequence[Study], path: Path) -> None:
    """Draw VEE with patience 1 under every measure, pooled by mean and by max (Fig. 5 of VEE-BERT)."""
    rows = [(study, pooling) for study in studies for pooling in ("mean", "max")]
    _, grid = plt.subplots(len(studies), 2, figsize=(11, 4.2 * len(studies)), squeeze=False)
    for axes, (study, pooling) in zip(grid.flat, rows, strict=True):
        keys = [key for key in study.families if key.startswith("vee/") and key.endswith(f"/{pooling}")]
        for index, key in enumerate(keys):
            pairs = [pair for pair in study.families[key] if _patience(pair) == 1]
            style = ("-", "--", ":", "-.")[index % 4]
            marker = MEASURE_MARKERS[index % len(MEASURE_MARKERS)]
            _curve(axes, pairs, _layers, label=key.split("/")[1], marker=marker, linestyle=style)
        axes.set_title(f"{study.model}, pooled by {pooling}")
        axes.set_xlabel("average exit layer")
        axes.set_ylabel("F1, test")
        axes.set_ylim(study.full.test.f1 - 6, study.full.test.f1 + 1)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, loc="lower right")
    _save(path)


def _curve(axes: Axes, pairs: Sequence[Pair], along: Axis, **style: str) -> None:
    tested = sorted((along(pair.test), pair.test.f1) for pair in pairs)
    axes.plot([x for x, _ in tested], [f1 for _, f1 in tested], markersize=4, linewidth=1.2, **style)  # type: ignore[arg-type]


def _layers(outcome: Outcome) -> float:
    return outcome.replay.average_exit_layer


def _time(study: Study) -> Axis:
    full = study.full.test.seconds
    return lambda outcome: outcome.seconds / full


def _patience(pair: Pair) -> int:
    policy = pair.dev.policy
    return policy.patience if isinstance(policy, Vee) else 1


@contextmanager
def _figure(studies: Sequence[Study], path: Path) -> Iterator[list[tuple[Axes, Study]]]:
    """Yield one panel per model; write the figure when the block ends."""
    _, grid = plt.subplots(1, len(studies), figsize=(5.5 * len(studies), 4.4), squeeze=False)
    panels = list(zip(grid.flat, studies, strict=True))
    yield panels
    for axes, study in panels:
        axes.set_title(study.model)
        axes.grid(alpha=0.3)
    _save(path)


def _save(path: Path) -> None:
    plt.tight_layout()
    plt.savefig(path, dpi=150)
    plt.close()
