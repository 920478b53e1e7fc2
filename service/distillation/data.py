"""Makes the data of a distillation: labelled texts are split, gold data join them, and the table unit is chosen."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from tokenizers import Tokenizer

from service.data.gold import gold_spans
from service.data.readers import Example, read_examples
from service.distillation.labelling import line_of
from service.errors import BadInput
from service.files import write_whole
from service.text.encoder import TextConfig, TextEncoder
from service.text.words import TableUnit

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")
MOST_HELD_OUT = 1_000  # texts in dev, and as many in test
FEWEST_TEXTS = 100  # of which a tenth is dev and a tenth test: calibration needs ten
LOST_BY_WORDS = 0.01  # share of entities that a table of words may lose beside one of pieces
SEED = 1


def check_count(different: int) -> None:
    """Raise BadInput for too few different texts."""
    if different < FEWEST_TEXTS:
        raise BadInput(f"there are {different} different texts; distil from at least {FEWEST_TEXTS}")


def split_texts(labelled: Sequence[Example]) -> dict[Split, list[Example]]:
    """Draw dev and test, a tenth each but at most MOST_HELD_OUT; the rest is train."""
    drawn = random.Random(SEED).sample(labelled, len(labelled))
    held = min(MOST_HELD_OUT, len(drawn) // 10)
    return {"dev": drawn[:held], "test": drawn[held : 2 * held], "train": drawn[2 * held :]}


def read_gold(folder: Path, labels: Sequence[str]) -> dict[Split, list[Example]]:
    """Read train, dev and test (.conll or .jsonl) of annotated data whose labels are among a teacher's `labels`.

    Raises DataRefused for a file that is missing or malformed, and BadInput for a label that the teacher does not know.
    """
    gold = {}
    for split in SPLITS:
        gold[split] = read_examples_of(folder, split)
        unknown = sorted({e.label for example in gold[split] for e in example.entities} - set(labels))
        if unknown:
            raise BadInput(
                f"{split} of {folder} has labels {unknown}, which the teacher does not know; it knows {list(labels)}"
            )
    return gold


def read_examples_of(folder: Path, split: Split) -> list[Example]:
    """Read the file of a split, .conll or .jsonl. Raises BadInput where there is none, DataRefused as readers do."""
    path = next((p for p in (folder / f"{split}.conll", folder / f"{split}.jsonl") if p.is_file()), None)
    if path is None:
        raise BadInput(f"{folder} has no {split}.conll and no {split}.jsonl; expected train, dev and test")
    return read_examples(path)


def write_data(folder: Path, texts: Mapping[Split, Sequence[Example]], gold: Mapping[Split, Sequence[Example]]) -> None:
    """Write train.jsonl and dev.jsonl of both, test.jsonl of texts alone, and gold_test.jsonl where there is gold.

    In dev, texts say which of the two they are from: calibration keeps its promises on each.
    """
    texts_of = {
        split: [replace(example, source="texts" if gold else "") for example in texts[split]] for split in SPLITS
    }
    gold_of = {split: [replace(example, source="gold") for example in found] for split, found in gold.items()}
    for split in SPLITS:
        joined = [*texts_of[split], *(gold_of.get(split, []) if split != "test" else [])]
        write_whole(folder / f"{split}.jsonl", "".join(map(line_of, joined)))
    if gold:
        write_whole(folder / "gold_test.jsonl", "".join(map(line_of, gold_of["test"])))


def choose_table_unit(tokenizer: Tokenizer, text: TextConfig, examples: Sequence[Example]) -> TableUnit:
    """Return words, or pieces where a table of words loses too many entities, since they begin or end within one."""
    words, pieces = (_lost(tokenizer, replace(text, table_unit=unit), examples) for unit in ("words", "pieces"))
    return "pieces" if words - pieces > LOST_BY_WORDS else "words"


def _lost(tokenizer: Tokenizer, text: TextConfig, examples: Sequence[Example]) -> float:
    """Return the share of entities that no sequence contains as a whole."""
    labels = sorted({entity.label for example in examples for entity in example.entities})
    ids = {label: index for index, label in enumerate(labels, 1)}
    encoded = TextEncoder(tokenizer, text, labels, nested=False).encode_batch([example.text for example in examples])
    lost = sum(len(gold_spans(one, example.entities, ids)[1]) for one, example in zip(encoded, examples, strict=True))
    return lost / max(1, sum(len(example.entities) for example in examples))
