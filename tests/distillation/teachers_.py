"""A token classifier that Transformers trained on the toy task, within seconds. No test lives here."""

from __future__ import annotations

from pathlib import Path

import torch

from service.data.readers import Example, read_examples
from tests.models.classifiers_ import BIO, save_classifier
from tests.training.toy_ import CITIES, PEOPLE, TEMPLATES, write_conll

STEPS = 150
IGNORED = -100  # what Transformers leaves out of the loss


def train_teacher(folder: Path, examples: list[Example]) -> Path:
    """Write a classifier whose tokenizer knows every word of the task, trained on `examples`; -> `folder`."""
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    words = sorted({word.lower() for text in (*PEOPLE, *CITIES, *TEMPLATES) for word in text.split()})
    save_classifier(folder, words=words)
    model, tokenizer = AutoModelForTokenClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    batch = tokenizer([example.text for example in examples], padding=True, return_offsets_mapping=True)
    labels = torch.full((len(examples), len(batch["input_ids"][0])), IGNORED)
    for row, (example, offsets) in enumerate(zip(examples, batch["offset_mapping"], strict=True)):
        for piece, (start, end) in enumerate(offsets):
            if start == end:
                continue
            labels[row, piece] = 0
            for entity in example.entities:
                if entity.start <= start and end <= entity.end:
                    labels[row, piece] = BIO.index(f"{'B' if start == entity.start else 'I'}-{entity.label}")
    inputs = {name: torch.tensor(batch[name]) for name in ("input_ids", "attention_mask")}
    torch.manual_seed(0)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    model.train()
    for _ in range(STEPS):
        optimiser.zero_grad()
        model(**inputs, labels=labels).loss.backward()
        optimiser.step()
    model.save_pretrained(folder)
    return folder


def toy_texts(folder: Path, count: int, name: str = "texts") -> list[Example]:
    """Annotated sentences of the toy task, no two of them the same."""
    write_conll(folder / f"{name}.conll", count)
    return list({example.text: example for example in read_examples(folder / f"{name}.conll")}.values())
