"""Writes a report: what every exit strategy gives on test data, as tables and plots in Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from service.evaluation import plots
from service.evaluation.bootstrap import interval
from service.evaluation.study import Study
from service.evaluation.sweep import Outcome

TABLE_1_LOSSES = (1.0, 0.3, 0.1)  # F1 x 100 on dev: the three operating points of every strategy
PAPER_SPEEDUPS = (1.3, 2.3, 4.8)  # layers / average exit layer, about those of the three rows of its Table 1
COMPARED_LOSSES = (0.1, 0.2, 0.3, 0.5, 1.0)
MEASURE_LOSS = 0.3

INTRODUCTION = """
Every policy was chosen on the dev set and is reported on the test set. F1 is strict micro-F1 x 100, texts split into
sentences as the server splits them. *Layers* is the average exit layer per sequence, *by token* weighted by word
pieces. *Time* is measured, one sentence at a time: embedding, layers, exits, the policy's own work and decoding, over
the time of full depth with one exit; on {how}. What the engine adds around a step is not in it. Intervals are 95 %, by
bootstrap over texts; those of differences are paired. One set of weights a model: what another training run would
change is not in the intervals."""
ORACLE = """
The oracle leaves at the first layer whose entities are those of full depth; no rule can know it. Its time is that of
the layers up to there and of one exit."""
SPEEDUPS_NOTE = """
Each strategy's best policy on dev among those that run at most so small a part of all layers there, on average (where
none does, its best of all): F1 / layers / time on test. In its Table 1 the paper has, on the test set of CoNLL-2003
with BERT-base, F1 / layers of 12: 90.35 / 12 at full depth; VEE-BERT 90.72 / 9.48, 88.58 / 5.16 and 79.90 / 2.52;
BranchyNet 89.57 / 8.64, 87.32 / 5.40 and 80.82 / 3.0."""
RUNS_NOTE = """
Chosen on dev: the points that no other of the same strategy beat there, dearest last. Under `tokee` the average exit
layer is over words. Time is that of whole passes over some sentences, one at a time, in turns with full depth."""

RIVALS_NOTE = """
The gated vote is its cheapest policy within a loss on dev. Against it on test, F1 / layers / time: the learned rule
chosen within the same loss on dev (same promise), and the best on dev among those no deeper there, or no slower.
Differences are learned minus gated vote."""


def report(studies: Sequence[Study], folder: Path) -> Path:
    """Write results.md and its plots into `folder`; return the path of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    plots.draw_exits(studies, folder / "exits.png")
    plots.draw_trade_off(studies, folder / "f1_by_layers.png", in_time=False)
    plots.draw_trade_off(studies, folder / "f1_by_time.png", in_time=True)
    plots.draw_ensemble(studies, folder / "ensemble.png")
    plots.draw_measures(studies, folder / "measures.png")
    page = folder / "results.md"
    page.write_text("\n".join([*_introduction(studies), *_sections(studies)]) + "\n", encoding="utf-8")
    return page


def _introduction(studies: Sequence[Study]) -> list[str]:
    command = " ".join(f"{s.given}=DATA/{s.dev.data},DATA/{s.test.data}" for s in studies)
    on = studies[0].measured_on
    how = f"{on['device']}, {on['executor']} ({on['dtype']}), {on['threads']} threads"
    return [
        "# Results: every sentence-level exit strategy, on one trace of each model",
        "",
        f"    python -m service report {command}",
        "",
        _filled(INTRODUCTION.format(how=how)),
        "",
        "![F1 against the average exit layer](f1_by_layers.png)",
        "",
        "![F1 against time](f1_by_time.png)",
        "",
        _filled(ORACLE),
    ]


def _sections(studies: Sequence[Study]) -> list[str]:
    lines = ["", "## F1 and confidence of every exit", "", "![F1 and mean entropy of every exit](exits.png)", ""]
    lines += ["(The paper's Fig. 1.)"]
    for study in studies:
        lines += _exits(study)
    lines += ["", "## Operating points: expected on dev, found on test"]
    for study in studies:
        lines += _points(study)
    if any(study.runs for study in studies):
        lines += ["", "## Strategies that change what deeper layers see, or need prototypes: run on test", ""]
        lines += [_filled(RUNS_NOTE)]
    for study in studies:
        lines += _runs(study) if study.runs else []
    lines += ["", "## All strategies at three budgets", ""]
    lines += [
        "In the form of the paper's Table 1: each strategy's cheapest policy that loses at most 1.0, 0.3 or 0.1 F1"
    ]
    lines += ["on dev (where none does, its best), F1 / layers / time on test."]
    for study in studies:
        lines += _table_1(study)
    lines += ["", "## All strategies at the paper's speed-ups", "", _filled(SPEEDUPS_NOTE)]
    for study in studies:
        lines += _at_speedups(study)
    lines += ["", "## The learned rule against the gated vote", ""]
    lines += [_filled(RIVALS_NOTE)]
    for study in studies:
        lines += _learned_against_gated(study)
    lines += ["", "## Cross-layer ensemble", "", "![VEE with and without ensemble](ensemble.png)", ""]
    lines += [
        "VEE (mean KL, patience 1) that decodes the average of the exits so far, at the same thresholds (Fig. 4)."
    ]
    for study in studies:
        lines += _ensemble(study)
    lines += ["", "## Measures of consistency", "", "![VEE under every measure](measures.png)", ""]
    lines += [f"VEE's cheapest policy within {MEASURE_LOSS} F1 of full depth on dev, any patience (Fig. 5)."]
    for study in studies:
        lines += _measures(study)
    lines += ["", "## What an exit costs"]
    for study in studies:
        lines += _costs(study)
    return lines


def _exits(study: Study) -> list[str]:
    cuts = study.families["budgeted"]
    return [
        "",
        *_table(
            ["`" + study.model + "`, exit", *(str(layer) for layer in range(1, len(cuts) + 1))],
            [
                ["F1, dev", *(f"{pair.dev.f1:.2f}" for pair in cuts)],
                ["F1, test", *(f"{pair.test.f1:.2f}" for pair in cuts)],
                ["mean entropy, test", *(f"{entropy:.5f}" for entropy in study.entropy)],
            ],
        ),
    ]


def _points(study: Study) -> list[str]:
    full = study.full.test
    boot = study.bootstrap
    full_draws = boot.f1(full.replay)
    rows, below, dominated = [], 0, 0
    for point, found in study.points:
        low, high = interval(full_draws - boot.f1(found.replay))
        static = study.static_f1_at(found.seconds)
        below += found.f1 < static
        dominated += study.is_dominated(found)
        parameters = {name: value for name, value in point.parameters.items() if name != "strategy"}
        policy = " ".join([str(point.parameters["strategy"]), *(f"{n} {v}" for n, v in parameters.items())])
        rows.append(
            [
                policy + (f" (**{point.preset}**)" if point.preset else ""),
                f"{point.f1_loss:.2f}",
                f"{point.average_exit_layer:.2f}",
                f"{point.speedup_latency:.2f}",
                f"{found.f1:.2f}",
                f"{full.f1 - found.f1:.2f} ({low:.2f} to {high:.2f})",
                f"{found.replay.average_exit_layer:.2f}",
                f"{100 * (found.replay.average_exit_layer / point.average_exit_layer - 1):+.1f} %",
                f"{found.replay.average_exit_layer_by_token:.2f}",
                f"{full.seconds / found.seconds:.2f}",
                f"{static:.2f}",
            ]
        )
    head = ["policy", "loss, dev", "layers, dev", "speed-up, dev", "F1, test", "loss, test", "layers, test"]
    head += ["against expected", "by token", "speed-up, test", "static cuts at that time"]
    verdict = f"""{len(rows) - dominated} of {len(rows)} points are dominated by no static cut (as good, no slower), and
        {len(rows) - below} lie on or above a mixture of static cuts of the same measured time (the last column)."""
    return ["", f"`{study.model}`, full depth {full.f1:.2f} on test:", "", *_table(head, rows), "", _filled(verdict)]


def _runs(study: Study) -> list[str]:
    rows = []
    full = study.full.test
    for point, outcome in study.runs:
        name = " ".join(f"{name} {value}" for name, value in point.parameters.items() if name != "strategy")
        rows.append(
            [
                f"{point.parameters['strategy']} {name}",
                f"{point.f1_loss:.2f}",
                f"{point.average_exit_layer:.2f}",
                f"{point.speedup_latency:.2f}",
                f"{outcome.f1:.2f}",
                f"{full.f1 - outcome.f1:.2f}",
                f"{outcome.replay.average_exit_layer:.2f}",
                f"{full.seconds / outcome.seconds:.2f}",
                f"{study.static_f1_at(outcome.seconds):.2f}",
            ]
        )
    head = [f"`{study.model}`", "loss, dev", "layers, dev", "speed-up, dev"]
    head += ["F1, test", "loss, test", "layers, test", "speed-up, test", "static cuts at that time"]
    return ["", *_table(head, rows)]


def _table_1(study: Study) -> list[str]:
    rows = [["full depth", *[_cell(study, study.full.test)] * len(TABLE_1_LOSSES)]]
    for key, family in study.kinds.items():
        if family.style is not None:
            rows.append([family.title, *(_cell(study, study.within(key, loss).test) for loss in TABLE_1_LOSSES)])
    rows.append(["oracle", *[_cell(study, study.oracle)] * len(TABLE_1_LOSSES)])
    return ["", *_table([f"`{study.model}`", *(f"within {loss} on dev" for loss in TABLE_1_LOSSES)], rows)]


def _at_speedups(study: Study) -> list[str]:
    budgets = [study.dev.num_layers / speedup for speedup in PAPER_SPEEDUPS]
    rows = [["full depth", *[_cell(study, study.full.test)] * len(budgets)]]
    for key, family in study.kinds.items():
        if family.style is not None:
            chosen = [study.best(key, _layers, budget) for budget in budgets]
            rows.append([family.title, *(_cell(study, pair.test) for pair in chosen)])
    return ["", *_table([f"`{study.model}`", *(f"{speedup} x fewer layers" for speedup in PAPER_SPEEDUPS)], rows)]


def _cell(study: Study, outcome: Outcome) -> str:
    time = outcome.seconds / study.full.test.seconds
    return f"{outcome.f1:.2f} / {outcome.replay.average_exit_layer:.2f} / {time:.2f}"


def _learned_against_gated(study: Study) -> list[str]:
    """Compare the learned rule with the gated vote: within the same loss, at the same depth, and in the same time."""
    boot = study.bootstrap
    rows = []
    for loss in COMPARED_LOSSES:
        gated = study.within("gated_vote", loss)
        rivals = (
            study.within("learned", loss),
            study.best("learned", _layers, _layers(gated.dev)),
            study.best("learned", lambda outcome: outcome.seconds, gated.dev.seconds),
        )
        row = [f"{loss}", _cell(study, gated.test)]
        for rival in rivals:
            low, high = interval(boot.f1(rival.test.replay) - boot.f1(gated.test.replay))
            difference = rival.test.f1 - gated.test.f1
            row += [_cell(study, rival.test), f"{difference:+.2f} ({low:+.2f} to {high:+.2f})"]
        rows.append(row)
    head = [f"`{study.model}`, within, on dev", "gated vote", "learned, same promise", "F1"]
    head += ["learned, no deeper", "F1", "learned, no slower", "F1"]
    return ["", *_table(head, rows)]


def _layers(outcome: Outcome) -> float:
    return outcome.replay.average_exit_layer


def _ensemble(study: Study) -> list[str]:
    plain = {pair.dev.policy.to_json()["tau"]: pair for pair in study.families["vee/kl/mean"]}
    rows = []
    for averaged in study.ensemble[:: max(1, len(study.ensemble) // 8)]:
        alone = plain[averaged.dev.policy.to_json()["tau"]].test
        difference = averaged.test.f1 - alone.f1
        layers = f"{averaged.test.replay.average_exit_layer:.2f}"
        rows.append([layers, f"{alone.f1:.2f}", f"{averaged.test.f1:.2f}", f"{difference:+.2f}"])
    return ["", *_table([f"`{study.model}`, layers", "F1 alone", "F1 averaged", "difference"], rows)]


def _measures(study: Study) -> list[str]:
    measures = [key for key in study.families if key.startswith("vee/")]
    rows = []
    for key in sorted(measures, key=lambda key: study.within(key, MEASURE_LOSS).test.replay.average_exit_layer):
        found = study.within(key, MEASURE_LOSS)
        _, measure, pooling = key.split("/")
        parameters = found.dev.policy.to_json()
        loss = study.full.test.f1 - found.test.f1
        rows.append([measure, pooling, f"{parameters['patience']}", _cell(study, found.test), f"{loss:.2f}"])
    head = [f"`{study.model}`, measure", "pooling", "patience", "F1 / layers / time", "loss, test"]
    return ["", *_table(head, rows)]


def _costs(study: Study) -> list[str]:
    columns = zip(study.lengths, study.layer_ms, study.exit_ms, strict=True)
    rows = [[f"{n}", f"{layer:.3f}", f"{table:.3f}", f"{table / layer:.2f}"] for n, layer, table in columns]
    return ["", *_table([f"`{study.model}`, pieces", "layer, ms", "exit, ms", "exit / layer"], rows)]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [list(head), ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _filled(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 118)
