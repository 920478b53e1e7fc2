"""Makes, saves and loads traces: what every exit said of every sequence of a data set, run once to full depth.

Policies are replayed over a trace. It holds tables, word boundaries and gold entities, but no text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from service.data.readers import Example
from service.errors import DataRefused
from service.evaluation.evaluate import encode_examples
from service.executors.executor import Executor
from service.exits.candidates import Candidates
from service.exits.reading import Reading
from service.models.store import StoredModel
from service.spans.score import WHOLE, Annotation, Key, keys
from service.spans.types import DoubleArray, IntArray
from service.stepping.every_exit import run_to_full_depth
from service.text.types import EncodedText

FORMAT = "3"


@dataclass(frozen=True, slots=True, eq=False)
class TracedSequence:
    """Keeps of a sequence what turns its spans into entities, and its length.

    num_pieces                     how many word pieces it has
    word_starts, word_ends, owned  as in SequenceInput
    """

    num_pieces: int
    word_starts: IntArray
    word_ends: IntArray
    owned: tuple[int, int]

    @property
    def num_words(self) -> int:
        return len(self.word_starts)


@dataclass(frozen=True, eq=False)
class Trace:
    """Holds what every exit of a model said of a data set.

    model, weights_sha256  the model, and the checksum of its weights
    data                   the name of the data file
    labels, nested         of the model
    tables                 per exit, (cells, K) float32 log-probabilities of all sequences, one after another
    summaries, candidates  per exit, as the executor gave them, so that a replay decides as serving does; if they are
                           empty, they are worked out from the tables
    texts                  per text, its sequences
    gold                   per text, its entities: (start, end, label) by character
    annotations            per text, what of it is annotated; if there are none, all of every text is
    sources                per text, the corpus it is from, "" for none; if there are none, all are of one
    """

    model: str
    weights_sha256: str
    data: str
    labels: tuple[str, ...]
    nested: bool
    tables: tuple[Tensor, ...]
    texts: tuple[tuple[TracedSequence, ...], ...]
    gold: tuple[frozenset[Key], ...]
    summaries: tuple[DoubleArray, ...] = ()
    candidates: tuple[Candidates, ...] = ()
    annotations: tuple[Annotation, ...] = ()
    sources: tuple[str, ...] = ()

    def annotation(self, text: int) -> Annotation:
        """Return what of a text is annotated."""
        return self.annotations[text] if self.annotations else WHOLE

    @property
    def num_layers(self) -> int:
        return len(self.tables)

    @cached_property
    def sequences(self) -> tuple[TracedSequence, ...]:
        """The sequences of all texts, in order."""
        return tuple(sequence for text in self.texts for sequence in text)

    @cached_property
    def readings(self) -> tuple[Reading, ...]:
        """One reading per exit: what the exit said of all sequences."""
        num_words = [sequence.num_words for sequence in self.sequences]
        return tuple(
            Reading(table, num_words, nested=self.nested, summary=summary, candidates=candidates)
            for table, summary, candidates in zip_longest(self.tables, self.summaries, self.candidates)
        )

    @cached_property
    def num_pieces(self) -> IntArray:
        """The word pieces of every sequence: (sequences,)."""
        return np.array([sequence.num_pieces for sequence in self.sequences])

    @cached_property
    def text_of_sequence(self) -> IntArray:
        """The index of the text that each sequence belongs to: (sequences,)."""
        return np.repeat(np.arange(len(self.texts)), [len(text) for text in self.texts])


def trace(
    stored: StoredModel, examples: Sequence[Example], data: str, executor: Executor, *, split: bool = True
) -> Trace:
    """Run every text to full depth and return what every exit said.

    Texts are cut into sentences as the server cuts them; `split=False` takes each text as one sentence. Raises
    DataRefused where no text has a word.
    """
    texts = encode_examples(stored.text_encoder, examples, split=split)
    sequences = [sequence for text in texts for sequence in text.sequences]
    if not sequences:
        raise DataRefused(f"{data} holds no words")
    parts: list[list[Reading]] = [[] for _ in range(stored.config.num_layers)]
    order: list[int] = []
    for batch, of_exits in run_to_full_depth(executor, sequences):
        order += batch
        for of_exit, reading in zip(parts, of_exits, strict=True):
            of_exit += reading.split()
    position = np.argsort(order).tolist()
    exits = [[of_exit[index] for index in position] for of_exit in parts]
    return Trace(
        stored.reference,
        stored.weights_sha256,
        data,
        stored.config.labels,
        stored.config.nested,
        tuple(torch.cat([part.table.cpu() for part in of_exit]) for of_exit in exits),
        tuple(_traced(text) for text in texts),
        tuple(frozenset(keys(example.entities)) for example in examples),
        tuple(np.concatenate([part.summary for part in of_exit]) for of_exit in exits),
        tuple(
            Candidates.join(
                [part.candidates.cells for part in of_exit],
                are_entities=all(part.candidates.are_entities for part in of_exit),
            )
            for of_exit in exits
        ),
        tuple(example.annotation for example in examples),
        tuple(example.source for example in examples),
    )


def _traced(text: EncodedText) -> tuple[TracedSequence, ...]:
    return tuple(TracedSequence(s.num_pieces, s.word_starts, s.word_ends, s.owned) for s in text.sequences)


def save_trace(path: Path, found: Trace) -> None:
    """Write a trace as one safetensors file."""
    header = {
        "format": FORMAT,
        "model": found.model,
        "weights_sha256": found.weights_sha256,
        "data": found.data,
        "labels": found.labels,
        "nested": found.nested,
        "gold": [sorted(entities) for entities in found.gold],
        "sources": found.sources,
        "annotations": [[None if a.labels is None else sorted(a.labels), a.ignored] for a in found.annotations],
    }
    sequences = found.sequences
    tensors = {f"exit.{layer}": table for layer, table in enumerate(found.tables, 1)}
    for layer, reading in enumerate(found.readings, 1):
        tensors[f"summary.{layer}"] = torch.from_numpy(reading.summary)
        tensors[f"candidates.{layer}"] = torch.from_numpy(reading.candidates.cells)
        tensors[f"candidates_per_sequence.{layer}"] = torch.tensor(reading.candidates.counts)
    tensors |= {
        "sequences_per_text": torch.tensor([len(text) for text in found.texts]),
        "num_pieces": torch.tensor([sequence.num_pieces for sequence in sequences]),
        "num_words": torch.tensor([sequence.num_words for sequence in sequences]),
        "owned": torch.tensor([sequence.owned for sequence in sequences]),
        "word_starts": torch.from_numpy(np.concatenate([sequence.word_starts for sequence in sequences])),
        "word_ends": torch.from_numpy(np.concatenate([sequence.word_ends for sequence in sequences])),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"trace": json.dumps(header)})


def load_trace(path: Path) -> Trace:
    """Read a trace that `save_trace` wrote. Raises DataRefused for any other file or format version."""
    if not path.is_file():
        raise DataRefused(f"{path} does not exist; make it with `python -m service trace`")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["trace"])
            if header["format"] != FORMAT:
                raise DataRefused(f"{path} is a trace of format {header['format']}; expected {FORMAT}: trace again")
            return _read(header, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118  (not a mapping)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:  # as tensors of odd sizes raise
        raise DataRefused(f"{path} is no trace: {error!r}; make it with `python -m service trace`") from error


def _read(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Trace:
    num_words = tensors["num_words"].tolist()
    starts = tensors["word_starts"].split(num_words)
    ends = tensors["word_ends"].split(num_words)
    rows = zip(tensors["num_pieces"].tolist(), starts, ends, tensors["owned"].tolist(), strict=True)
    layers = range(1, 1 + sum(name.startswith("exit.") for name in tensors))
    sequences = iter(TracedSequence(pieces, s.numpy(), e.numpy(), (own[0], own[1])) for pieces, s, e, own in rows)
    return Trace(
        header["model"],
        header["weights_sha256"],
        header["data"],
        tuple(header["labels"]),
        header["nested"],
        tuple(tensors[f"exit.{layer}"] for layer in layers),
        tuple(tuple(next(sequences) for _ in range(count)) for count in tensors["sequences_per_text"].tolist()),
        tuple(frozenset((start, end, label) for start, end, label in entities) for entities in header["gold"]),
        tuple(tensors[f"summary.{layer}"].numpy() for layer in layers),
        tuple(_candidates(tensors, layer) for layer in layers),
        tuple(
            Annotation(None if labels is None else frozenset(labels), tuple((start, end) for start, end in ignored))
            for labels, ignored in header["annotations"]
        ),
        tuple(header["sources"]),
    )


def _candidates(tensors: Mapping[str, Tensor], layer: int) -> Candidates:
    counts, cells = tuple(tensors[f"candidates_per_sequence.{layer}"].tolist()), tensors[f"candidates.{layer}"].numpy()
    if sum(counts) != len(cells):
        raise ValueError(f"exit {layer} has {len(cells)} candidates; its sequences have {sum(counts)}")
    return Candidates(counts, cells)
