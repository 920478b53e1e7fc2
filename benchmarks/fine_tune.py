"""Makes a teacher to distil: fine-tunes a Transformers token classifier by that library's own Trainer.

    pip install -r benchmarks/requirements.txt
    python -m benchmarks.fine_tune ENCODER DATA/conll2003 --output runs/teacher --texts-share 0.5

The data folder has train.conll or train.jsonl, of flat entities. Words are labelled at their first piece, in BIO. The
share of it that is set aside, which the teacher never sees, goes to `texts.jsonl` in the output, without labels: to
distil on. The checkpoint, in `teacher/`, is that of the last epoch.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.peer_engines import library
from service.data.gold import label_names
from service.data.readers import Example
from service.distillation.data import read_examples_of

IGNORED = -100  # what Transformers leaves out of the loss


class Pieces(torch.utils.data.Dataset[dict[str, list[int]]]):
    """Examples as pieces with a tag at every word's first one."""

    def __init__(self, examples: Sequence[Example], tokenizer: Any, tags: Sequence[str]) -> None:
        ids = {tag: index for index, tag in enumerate(tags)}
        encoded = tokenizer([example.text for example in examples], truncation=True, return_offsets_mapping=True)
        self._items = [
            {
                "input_ids": encoded["input_ids"][index],
                "attention_mask": encoded["attention_mask"][index],
                "labels": tags_of(example, encoded["offset_mapping"][index], encoded.word_ids(index), ids),
            }
            for index, example in enumerate(examples)
        ]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return self._items[index]


def tags_of(
    example: Example, offsets: Sequence[tuple[int, int]], words: Sequence[int | None], ids: dict[str, int]
) -> list[int]:
    """Return the tag of every piece, IGNORED but for the first of each word."""
    tags: list[int] = []
    before: int | None = None
    for (start, _), word in zip(offsets, words, strict=True):
        if word is None or word == before:
            tags.append(IGNORED)
        else:
            entity = next((one for one in example.entities if one.start <= start < one.end), None)
            tags.append(ids["O"] if entity is None else ids[f"{'B' if start == entity.start else 'I'}-{entity.label}"])
        before = word
    return tags


def fine_tune(encoder: Path, train: Sequence[Example], output: Path, epochs: float, rate: float, seed: int) -> Path:
    """Fine-tune a token classifier; return its folder."""
    library("accelerate")  # which Trainer needs
    from transformers import (
        AutoModelForTokenClassification,
        AutoTokenizer,
        DataCollatorForTokenClassification,
        Trainer,
        TrainingArguments,
    )

    labels = label_names([example.entities for example in train])
    tags = ["O", *(f"{prefix}-{label}" for label in labels for prefix in "BI")]
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    model = AutoModelForTokenClassification.from_pretrained(
        encoder, id2label=dict(enumerate(tags)), label2id={tag: index for index, tag in enumerate(tags)}
    )
    arguments = TrainingArguments(
        output_dir=str(output / "trainer"),
        num_train_epochs=epochs,
        learning_rate=rate,
        per_device_train_batch_size=32,
        warmup_steps=100,
        weight_decay=0.01,
        seed=seed,
        save_strategy="no",
        report_to=[],
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=Pieces(train, tokenizer, tags),
        data_collator=DataCollatorForTokenClassification(tokenizer),
    )
    trainer.train()
    model.save_pretrained(output / "teacher")
    tokenizer.save_pretrained(output / "teacher")
    return output / "teacher"


def main() -> None:
    """Fine-tune, and write the texts that were set aside."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--texts-share", type=float, default=0.0, help="of train, set aside as texts without labels")
    parser.add_argument("--epochs", type=float, default=5.0)
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    examples = read_examples_of(options.data, "train")
    draw = random.Random(options.seed)
    drawn = draw.sample(examples, len(examples))
    aside = round(options.texts_share * len(drawn))
    options.output.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"text": example.text}, ensure_ascii=False) + "\n" for example in drawn[:aside])
    (options.output / "texts.jsonl").write_text("".join(lines), encoding="utf-8")
    print(fine_tune(options.encoder, drawn[aside:], options.output, options.epochs, options.rate, options.seed))


if __name__ == "__main__":
    main()
