"""Reads corpora that annotate other labels than a model has, each in its own way, as a recipe describes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from service.data.readers import Example, read_examples
from service.errors import DataRefused
from service.spans.score import Annotation


@dataclass(frozen=True, slots=True)
class Corpus:
    """Describes a corpus: three files, and what its labels mean for the model.

    train, dev, test  files, relative to the data folder
    name              for figures and the card
    weight            how often an epoch shows each text: .25 shows every fourth one, 2 shows all twice
    annotated         the model's labels that it annotates; empty: all. The others may occur in its texts, unmarked
    labels            the model's label by the corpus's own; a label of `annotated` needs no entry for itself
    fixed_labels      single words, with blanks between them, by the label that they have wherever they are an entity:
                      one corpus takes `French` for a place, all others for MISC
    ignored           own labels of which nothing is sure: neither an entity of a known label nor certainly none
    no_entities       own labels of what is no entity for the model
    credit            for the card: source and licence
    """

    train: str
    dev: str
    test: str
    name: str = ""
    weight: float = 1.0
    annotated: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    fixed_labels: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    no_entities: tuple[str, ...] = ()
    credit: str = ""

    def read(self, file: Path) -> list[Example]:
        """Read a file of the corpus, with the model's labels. Raises DataRefused for a label that is not described."""
        examples = read_examples(file)
        if not (self.annotated or self.labels or self.fixed_labels or self.ignored or self.no_entities):
            return examples
        return [self.mapped(example, file) for example in examples]

    def mapped(self, example: Example, file: Path) -> Example:
        """Return a text with the model's labels in place of the corpus's own; `file` is named where that fails."""
        fixed = {word: label for label, words in self.fixed_labels.items() for word in words.split()}
        entities = []
        ignored = list(example.annotation.ignored)
        for entity in example.entities:
            label = self.labels.get(entity.label) or (entity.label if entity.label in self.annotated else None)
            if label is not None:
                label = fixed.get(example.text[entity.start : entity.end], label)
            if label is not None:
                entities.append(replace(entity, label=label))
            elif entity.label in self.ignored:
                ignored.append((entity.start, entity.end))
            elif entity.label not in self.no_entities:
                raise DataRefused(
                    f"{file} has the label {entity.label!r}, which the recipe does not name; put it into the corpus's "
                    "labels, ignored or no_entities"
                )
        labels = frozenset(self.annotated) if self.annotated else None
        return replace(example, entities=tuple(entities), annotation=Annotation(labels, tuple(ignored)))
