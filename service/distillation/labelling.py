"""Lets a token classifier label texts as its own Transformers pipeline does, into a file that grows and is resumed."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from service.data.readers import Example
from service.errors import BadInput
from service.files import write_whole
from service.models.classifier import TokenClassifier
from service.spans.types import Entity

log = logging.getLogger(__name__)

AggregationStrategy = Literal["simple", "first", "average", "max"]
BLOCK_BATCHES = 16  # batches of similar length are made of so many batches' texts, which are then written


class Labeller:
    """Finds entities by the pipeline of Transformers, with the classifier's tags under names that it can group.

    It groups BIO, IO and plain tags; BIOES come to it as BIO. A text longer than the encoder reads goes in overlapping
    windows (the pipeline's `stride`). Blanks at the ends of an entity, which some tokenizers count to it, are cut off.

    pipeline  Transformers' own
    strategy  of it
    """

    def __init__(
        self,
        classifier: TokenClassifier,
        strategy: AggregationStrategy | None = None,
        *,
        batch_size: int = 32,
        device: torch.device | None = None,
    ) -> None:
        """strategy: None takes "first", by which most classifiers are trained, where the tokenizer knows words.

        Else it takes "simple".
        """
        from transformers import AutoModelForTokenClassification, AutoTokenizer, TokenClassificationPipeline

        self.strategy: AggregationStrategy = strategy or ("first" if classifier.knows_words else "simple")
        self.folder, self.batch_size = classifier.folder, batch_size
        model = AutoModelForTokenClassification.from_pretrained(classifier.folder)
        model.config.id2label = dict(enumerate(classifier.scheme.names))
        tokenizer = AutoTokenizer.from_pretrained(classifier.folder)
        encoder = classifier.checkpoint.config
        longest = min(tokenizer.model_max_length, encoder.max_positions - encoder.position_offset)
        tokenizer.model_max_length = longest
        self.pipeline: Any = TokenClassificationPipeline(  # type: ignore[no-untyped-call]
            model=model,
            tokenizer=tokenizer,
            device=device or torch.device("cpu"),
            aggregation_strategy=self.strategy,
            stride=longest // 4,
        )

    def __call__(self, texts: Sequence[str]) -> list[list[Entity]]:
        """Return the entities of every text, in batches of texts of similar length."""
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        found: list[list[Entity]] = [[] for _ in texts]
        given = [texts[index] for index in order]
        for index, groups in zip(order, self.pipeline(given, batch_size=self.batch_size), strict=True):
            found[index] = list(_entities(texts[index], groups))
        return found


def _entities(text: str, groups: Sequence[dict[str, Any]]) -> Iterator[Entity]:
    for group in groups:
        start, end = group["start"], group["end"]
        start += len(text[start:end]) - len(text[start:end].lstrip())
        end -= len(text[start:end]) - len(text[start:end].rstrip())
        if start < end:
            yield Entity(start, end, group["entity_group"], float(group["score"]))


def label_texts(labeller: Labeller, texts: Sequence[str], output: Path) -> list[Example]:
    """Label texts into the file `output`, JSON lines; return them all. What it holds already is not labelled again.

    Raises BadInput if it holds other texts, or was labelled by another classifier or in another way.
    """
    run = {"checkpoint": str(labeller.folder.resolve()), "aggregation_strategy": labeller.strategy}
    path = output.with_suffix(".run.json")
    if output.exists() and path.exists() and json.loads(path.read_text(encoding="utf-8")) != run:
        raise BadInput(f"{output} was labelled in another way ({path}); give another --output")
    write_whole(path, json.dumps(run, indent=2) + "\n")
    examples = _labelled(output)
    if [example.text for example in examples] != list(texts[: len(examples)]):
        raise BadInput(f"{output} holds labels of other texts; give another --output")
    block = labeller.batch_size * BLOCK_BATCHES
    with (
        output.open("a", encoding="utf-8") as file,
        tqdm(total=len(texts), initial=len(examples), desc="labelling", unit="text", mininterval=5.0) as progress,
    ):
        while len(examples) < len(texts):
            some = texts[len(examples) : len(examples) + block]
            new = [Example(text, tuple(entities)) for text, entities in zip(some, labeller(some), strict=True)]
            file.writelines(map(line_of, new))
            file.flush()
            examples += new
            progress.update(len(new))
    return examples


def line_of(example: Example) -> str:
    """Return a text and its entities as a line that `read_examples` reads."""
    entities = [
        {"start": e.start, "end": e.end, "label": e.label, "score": round(e.score, 6)} for e in example.entities
    ]
    record = {"text": example.text, "entities": entities, **({"source": example.source} if example.source else {})}
    return json.dumps(record, ensure_ascii=False) + "\n"


def _labelled(output: Path) -> list[Example]:
    """Read what an earlier run has labelled; a line that it did not finish is cut off."""
    if not output.exists():
        return []
    content = output.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        log.info("%s ends within a line, which is labelled again", output)
        output.write_bytes(whole)
    records = [json.loads(line) for line in whole.splitlines()]
    return [
        Example(
            record["text"],
            tuple(Entity(e["start"], e["end"], e["label"], e["score"]) for e in record["entities"]),
        )
        for record in records
    ]
