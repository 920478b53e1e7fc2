"""Gathers texts of all corpora of a recipe in one annotated file, to calibrate on or to test with."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Literal

from service.data.readers import Example
from service.training.augment import Augmenter, Tokens, collect_names
from service.training.recipe import Recipe

Split = Literal["train", "dev", "test"]
CHANGED = "changed"  # the source of texts that were changed as the recipe says


def gather(recipe: Recipe, data: Path, split: Split, most: int, output: Path) -> Path:
    """Write up to `most` texts of every corpus into `output`, JSON lines, each with the corpus as its source.

    With augmentation, as many changed texts join them, drawn from all corpora, with the source CHANGED. Which texts are
    drawn depends on the recipe's seed alone. Raises DataRefused for a file that cannot be read.
    """
    draw = random.Random(recipe.seed)
    lines: list[str] = []
    everything: list[Example] = []
    for corpus in recipe.sources:
        examples = corpus.read(data / getattr(corpus, split))
        everything += examples
        lines += [_line(Tokens.of(example), corpus.name) for example in draw.sample(examples, min(most, len(examples)))]
    if not recipe.augmentation.is_none:
        augment = Augmenter(replace(recipe.augmentation, joined=0.0), collect_names(everything))
        texts = [Tokens.of(example) for example in draw.sample(everything, min(most, len(everything)))]
        lines += [_line(tokens, CHANGED) for tokens, _ in augment(texts, draw) if tokens.words]
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("".join(lines), encoding="utf-8")
    return output


def _line(tokens: Tokens, source: str) -> str:
    record = {
        "tokens": tokens.words,
        "entities": tokens.spans,
        **({"ignored": tokens.ignored} if tokens.ignored else {}),
        **({} if tokens.labels is None else {"annotated": sorted(tokens.labels)}),
        "source": source,
    }
    return json.dumps(record, ensure_ascii=False) + "\n"
