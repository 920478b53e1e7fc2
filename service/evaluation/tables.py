"""Prints an evaluation as plain text tables."""

from __future__ import annotations

from service.evaluation.evaluate import Evaluation
from service.exits.operating_points import Calibration
from service.spans.score import Score


def format_evaluation(model: str, file: str, result: Evaluation) -> str:
    """Return a table over all exits, and after it one table per exit with a row for each label."""
    lines = [
        f"{model} on {file}: {result.texts} texts, {result.sequences} sequences, {result.gold} gold entities,",
        f"{result.lost} of them out of reach by sentence splitting or windows (counted as missed)",
        "",
        "exit      F1   precision   recall   |  outermost F1   nested F1",
    ]
    for layer, scores in enumerate(result.exits, 1):
        nested = f"{100 * scores.nested.f1:9.2f}" if scores.nested.gold else "        -"
        lines.append(f"{layer:4d}  {_columns(scores.micro)}   |  {100 * scores.outermost.f1:12.2f}   {nested}")
    for layer, scores in enumerate(result.exits, 1):
        lines += ["", f"exit {layer}, per label      F1   precision   recall     gold"]
        lines += [f"  {label:20s}{_columns(counts)}   {counts.gold:6d}" for label, counts in scores.by_label.items()]
    return "\n".join(lines)


def format_operating_points(model: str, calibration: Calibration) -> str:
    """Return the front, one line per point, cheapest first, and after it the defaults of the other strategies."""
    provenance = calibration.provenance
    lines = [
        f"{model}, calibrated on {provenance['data']}: {provenance['sequences']} sequences, {provenance['device']}, "
        f"{provenance['executor']}, {provenance['threads']} threads",
        "",
        "speed-up   layers (95 %)         F1     loss (95 %)             policy",
    ]
    for point in (*calibration.points, *calibration.others):
        low, high = point.average_exit_layer_interval
        least, most = point.f1_loss_interval
        depth = f"{point.average_exit_layer:5.2f} ({low:.2f}-{high:.2f})"
        loss = f"{point.f1_loss:5.2f} ({least:5.2f} to {most:5.2f})"
        policy = " ".join(str(value) for value in point.parameters.values())
        preset = f"   <- {point.preset}" if point.preset else ""
        lines.append(f"{point.speedup_latency:6.2f} x   {depth}   {point.f1:6.2f}   {loss}   {policy}{preset}")
        if point is calibration.points[-1]:
            lines += ["", "defaults of all strategies"]
    if better := provenance.get("better_exit"):
        lines += [
            "",
            f"warning: exit {better['exit_layer']} (F1 {better['f1']}) is better than full depth "
            f"(F1 {better['full_depth_f1']}). The model was trained too little (more epochs, more data, smaller "
            "batches), or this file is too small to tell.",
            f"Presets and defaults are chosen by what they lose against exit {better['exit_layer']}; the losses above, "
            "max_f1_loss and the autopilot's still count from full depth.",
        ]
    return "\n".join(lines)


def _columns(counts: Score) -> str:
    return f"{100 * counts.f1:6.2f}   {100 * counts.precision:9.2f}   {100 * counts.recall:6.2f}"
