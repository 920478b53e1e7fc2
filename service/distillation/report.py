"""Reports what a distilled model is worth: agreement with its teacher, gold F1, speed, and the text that it took."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from service.assets import assets_of
from service.data.readers import read_examples
from service.distillation.labelling import Labeller
from service.evaluation.pipelines import ExecutorChoice, evaluate_exit_policy, evaluate_exits
from service.evaluation.predict import entities_of_texts
from service.evaluation.run_policy import run_policy
from service.executors.executor import Executor
from service.exits.operating_points import PRESETS, Calibration
from service.exits.policies.full_depth import FullDepth
from service.exits.policy import ExitPolicy
from service.files import write_whole
from service.models.store import StoredModel
from service.spans.score import Score, keys, score
from service.spans.types import Entity

TIMED_TEXTS, WARM_UP_TEXTS, ROUNDS = 200, 20, 3


@dataclass(frozen=True, slots=True)
class Agreement:
    """Holds the F1 x 100 of entities against some labels, on texts that no training has seen.

    exits    of every exit
    presets  by preset: `f1`, and the `average_exit_layer`
    teacher  of the teacher itself, against gold; None against its own labels
    """

    exits: list[float]
    presets: dict[str, dict[str, float]]
    teacher: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """Holds what a distilled model is worth.

    model                 name@version
    aggregation_strategy  of the teacher's pipeline
    train_texts           how many labelled texts it was trained on
    teacher, gold         agreement with the teacher's labels, and with gold ones where there are some
    milliseconds          for a text, one at a time, from text to entities, in this process: of the teacher's pipeline
                          ("teacher"), of the model at full depth, and of its presets
    measured_on           executor, device and threads of the model
    curve                 by number of training texts: agreement of every exit with the teacher
    """

    model: str
    aggregation_strategy: str
    train_texts: int
    teacher: Agreement
    gold: Agreement | None
    milliseconds: dict[str, float]
    measured_on: Mapping[str, Any]
    curve: dict[int, list[float]]

    def to_markdown(self) -> str:
        """Return the report as a page."""
        layers = range(1, len(self.teacher.exits) + 1)
        rows = [_row("the teacher", self.teacher.exits, self.teacher.presets)]
        if self.gold is not None:
            rows.append(_row("gold", self.gold.exits, self.gold.presets))
        head = ["F1 x 100 against", *(f"exit {layer}" for layer in layers), *self.teacher.presets]
        gold = "" if self.gold is None else f"\nAgainst gold the teacher itself has {self.gold.teacher:.2f}.\n"
        times = [[name, f"{value:.2f}"] for name, value in self.milliseconds.items()]
        curve = [[f"{count:,}", *(f"{f1:.2f}" for f1 in of_exits)] for count, of_exits in sorted(self.curve.items())]
        device = ", ".join(f"{name} {value}" for name, value in self.measured_on.items())
        return f"""# {self.model} beside its teacher

Trained on {self.train_texts:,} texts that the teacher labelled (`aggregation_strategy` {self.aggregation_strategy}).
All figures are of texts held out from training and calibration; in brackets the average exit layer.

{_table(head, rows)}
{gold}
## Time

Milliseconds for a text, one at a time, from text to entities, in one process; the teacher in its Transformers pipeline
(float32), the model on {device}.

{_table(["", "ms"], times)}

## How much text was enough

Agreement with the teacher by the number of training texts.

{_table(["texts", *(f"exit {layer}" for layer in layers)], curve)}
"""


def report_on(
    stored: StoredModel,
    labeller: Labeller,
    output: Path,
    train_texts: int,
    curve: Sequence[int],
    choice: ExecutorChoice,
) -> Report:
    """Measure a calibrated model on the held-out texts below `output`, and write report.md and report.json there."""
    presets = presets_of(stored)
    agreement = partial(_agreement, stored, presets, choice)
    test, gold_file = output / "data" / "test.jsonl", output / "data" / "gold_test.jsonl"
    gold = agreement(gold_file, _gold_f1(labeller, gold_file)) if gold_file.is_file() else None
    texts = [example.text for example in read_examples(test)][:TIMED_TEXTS]
    with choice.running(stored) as executor:
        answers: dict[str, Callable[[str], object]] = {"teacher": lambda text: labeller([text])}
        for name, policy in {"full depth": FullDepth(), **presets}.items():
            answers[name] = partial(answer, stored, executor, policy)
        times, device = milliseconds(answers, texts), executor.describe()
    scores = {count: json.loads((output / "curve" / str(count) / "test.json").read_text("utf-8")) for count in curve}
    found = agreement(test)
    report = Report(
        stored.reference,
        labeller.strategy,
        train_texts,
        found,
        gold,
        {name: round(value, 3) for name, value in times.items()},
        device,
        {
            **{count: [row["f1"] for row in of_run["exits"]] for count, of_run in scores.items()},
            train_texts: found.exits,
        },
    )
    write_whole(output / "report.json", json.dumps(asdict(report), indent=2) + "\n")
    write_whole(output / "report.md", report.to_markdown())
    return report


def presets_of(stored: StoredModel) -> dict[str, ExitPolicy]:
    """Return the policies of a calibrated model's presets, by name."""
    assets = assets_of(stored.model)
    calibration = Calibration.from_json(stored.operating_points or {}, assets)
    catalog = calibration.catalog(assets)
    return {name: catalog.policy(calibration.choose("preset", name).parameters) for name in PRESETS}


def answer(stored: StoredModel, executor: Executor, policy: ExitPolicy, text: str) -> list[list[Entity]]:
    """Find the entities of one text, as the server does but without its queue; return them as the only item."""
    encoded = stored.text_encoder.encode(text)
    passages = run_policy(executor, policy, encoded.sequences) if encoded.sequences else []
    return entities_of_texts(stored.text_encoder, [encoded], [passage.spans for passage in passages])


def milliseconds(answers: Mapping[str, Callable[[str], object]], texts: Sequence[str]) -> dict[str, float]:
    """Return the mean time for a text, the median of ROUNDS, in which all take turns after a warm-up."""
    rounds: dict[str, list[float]] = {name: [] for name in answers}
    for of_text in answers.values():
        for text in texts[:WARM_UP_TEXTS]:
            of_text(text)
    for _ in range(ROUNDS):
        for name, of_text in answers.items():
            started = time.perf_counter()
            for text in texts:
                of_text(text)
            rounds[name].append(1_000 * (time.perf_counter() - started) / len(texts))
    return {name: statistics.median(of_rounds) for name, of_rounds in rounds.items()}


def _agreement(
    stored: StoredModel,
    presets: Mapping[str, ExitPolicy],
    choice: ExecutorChoice,
    file: Path,
    teacher: float | None = None,
) -> Agreement:
    exits = [round(100 * f1, 2) for f1 in evaluate_exits(stored, file, choice).f1]
    found = {}
    for name, policy in presets.items():
        figures = evaluate_exit_policy(stored, file, policy, choice).figures.to_json()
        found[name] = {figure: figures[figure] for figure in ("f1", "average_exit_layer")}
    return Agreement(exits, found, teacher)


def _gold_f1(labeller: Labeller, file: Path) -> float:
    """Return the teacher's own F1 x 100 against gold."""
    examples, total = read_examples(file), Score()
    for example, found in zip(examples, labeller([example.text for example in examples]), strict=True):
        total += score(keys(example.entities), keys(found))
    return round(100 * total.f1, 2)


def _row(name: str, exits: Sequence[float], presets: Mapping[str, Mapping[str, float]]) -> list[str]:
    of_presets = [f"{found['f1']:.2f} ({found['average_exit_layer']:.2f})" for found in presets.values()]
    return [name, *(f"{f1:.2f}" for f1 in exits), *of_presets]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
