"""Distils a token classifier: its labels for texts, then training, calibration and a report. Each step has its file.

The student learns from both, labels and probabilities. The labels are those of the classifier's own pipeline. The
probabilities are those of its tags, turned into a distribution for every cell of the span table (`span_probabilities`),
which training takes as from any other teacher.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from service.data.readers import Example
from service.distillation.data import check_count, choose_table_unit, read_gold, split_texts, write_data
from service.distillation.labelling import AggregationStrategy, Labeller, label_texts
from service.distillation.report import Report, report_on
from service.errors import BadInput
from service.evaluation.pipelines import ExecutorChoice, calibrate_model
from service.models.classifier import TokenClassifier, name_of
from service.models.store import load_model
from service.text.words import TableUnit
from service.training.loop import train
from service.training.recipe import Recipe, find_recipe, read_recipe

log = logging.getLogger(__name__)

RECIPE = Path("distilled")  # in service/training/recipes
_FIXED = {"train", "dev", "test", "corpora", "nested", "table_unit", "layers", "language"}  # of the recipe
MOST_EPOCHS = 5  # times the recipe's, for a run on fewer texts, which then takes about as many steps


@dataclass(frozen=True, slots=True)
class Wishes:
    """Holds how a student is to be made.

    strategy    how the pipeline makes words of pieces; None: "first" where the tokenizer knows words, else "simple"
    batch_size  texts that the pipeline labels at a time
    gold        a folder of annotated data that join the texts; None: there are none
    layers      how many of the teacher's layers the student has; 0: all
    table_unit  None: words, unless they lose too many of the teacher's entities
    language    of the texts, for sentence splitting
    overrides   fields of the recipe
    curve       numbers of training texts on which further students are trained, for the report
    device      on which the teacher labels and the student is trained
    executor    which executor the student is calibrated and measured on
    command     the command line, for the model's card
    """

    strategy: AggregationStrategy | None = None
    batch_size: int = 32
    gold: Path | None = None
    layers: int = 0
    table_unit: TableUnit | None = None
    language: str = "en"
    overrides: Mapping[str, Any] = field(default_factory=dict)
    curve: Sequence[int] = ()
    device: torch.device = torch.device("cpu")  # noqa: RUF009, a value
    executor: ExecutorChoice = ExecutorChoice()  # noqa: RUF009, frozen
    command: str = ""


def distil(checkpoint: Path, texts: Sequence[str], output: Path, wishes: Wishes) -> Report:
    """Make a calibrated model with exits, `output`/model, of a token classifier; return what it is worth.

    checkpoint  the folder of a Transformers token classifier
    texts       of the kind that the model is for; blank ones, repetitions and those that gold has are left out
    output      receives labelled.jsonl, data/, all that training writes, and report.md and report.json

    Started again with the same arguments it goes on where it was interrupted, in labelling as in training. Raises
    ModelRefused for a checkpoint that is no token classifier of a known family or whose tags cannot be understood,
    BadInput for too few texts, and what training raises.
    """
    classifier = TokenClassifier.read(checkpoint)
    classifier.checkpoint.of_layers(wishes.layers)  # what cannot be is refused now, and not after an hour of labelling
    recipe, labels = _recipe(classifier, output, wishes), classifier.scheme.labels
    gold = read_gold(wishes.gold, labels) if wishes.gold is not None else {}
    annotated = {example.text for examples in gold.values() for example in examples}  # these need no labels
    different = [text for text in dict.fromkeys(texts) if text.strip() and text not in annotated]
    check_count(len(different))

    labeller = Labeller(classifier, wishes.strategy, batch_size=wishes.batch_size, device=wishes.device)
    split = split_texts(label_texts(labeller, different, output / "labelled.jsonl"))
    if absent := sorted(set(labels) - _labels_of(split["train"]) - _labels_of(gold.get("train", ()))):
        log.warning("no text has an entity of %s: the model will not know these labels", ", ".join(absent))
    write_data(output / "data", split, gold)
    if wishes.table_unit is None:
        unit = choose_table_unit(classifier.checkpoint.tokenizer, classifier.text, split["train"])
        log.info("a table of %s", unit)
        recipe = replace(recipe, table_unit=unit)
    curve = [count for count in sorted(set(wishes.curve)) if count < len(split["train"])]
    for count in curve:
        epochs = min(MOST_EPOCHS, math.ceil(len(split["train"]) / count)) * recipe.epochs
        _train(replace(recipe, epochs=epochs), classifier, output, output / "curve" / str(count), wishes, count)
    model = _train(recipe, classifier, output, output, wishes)
    calibrate_model(load_model(model), output / "data" / "dev.jsonl", wishes.executor)
    return report_on(load_model(model), labeller, output, len(split["train"]), curve, wishes.executor)


def _train(
    recipe: Recipe, classifier: TokenClassifier, output: Path, run: Path, wishes: Wishes, count: int | None = None
) -> Path:
    return train(
        recipe,
        encoder=classifier.folder,
        data=output / "data",
        output=run,
        device=wishes.device,
        command=wishes.command,
        max_sentences=count,
        teachers=[classifier.folder],
    )


def _labels_of(examples: Sequence[Example]) -> set[str]:
    return {entity.label for example in examples for entity in example.entities}


def _recipe(classifier: TokenClassifier, output: Path, wishes: Wishes) -> Recipe:
    """Return the recipe of the student; `overrides` have the last word. Raises BadInput."""
    found: dict[str, Any] = {
        "name": name_of(output) or "distilled",
        "encoder_name": f"the encoder of the token classifier {classifier.name}",
        "data_notice": (
            f"Made from the token classifier {classifier.name}, on texts that it labelled: the figures below count its "
            "labels as right. What its licence and that of the texts allow is not known here."
        ),
        "language": wishes.language,
        "table_unit": wishes.table_unit or "words",
        "window_pieces": classifier.text.window_pieces,
        "overlap_pieces": classifier.text.overlap_pieces,
        "layers": wishes.layers,
    }
    if taken := sorted(wishes.overrides.keys() & _FIXED):
        raise BadInput(f"{', '.join(taken)} cannot be set: an option says it, or the teacher")
    return read_recipe(find_recipe(RECIPE), {**found, **wishes.overrides})
