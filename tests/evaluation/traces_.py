"""Small traces: of a tiny model on sentences of its few words, and made up table by table. No test lives here."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from service.data.readers import Example
from service.evaluation.cost import CostMeter, PolicyCost
from service.evaluation.evaluate import encode_examples
from service.evaluation.predict import entities_at_every_exit
from service.evaluation.replay import Replay, Replayer
from service.evaluation.trace import Trace, TracedSequence, trace
from service.executors.executor import Executor
from service.exits.policy import ExitPolicy
from service.exits.reading import Reading
from service.models.config import ModelConfig
from service.models.multi_exit import MultiExitModel
from service.models.store import StoredModel
from service.spans.score import Key, keys
from service.spans.table import num_cells
from service.text.encoder import TextConfig, entities_of_sequences
from service.text.types import EncodedText
from tests.exits.tables_ import random_tables
from tests.models_ import WORDS, eager, tiny_config, tiny_model, tiny_text_encoder

WINDOWED = TextConfig(window_pieces=22, overlap_pieces=6)  # a sentence of more than 20 pieces has windows
SENTENCE_WORDS = (4, 6, 6, 9, 9, 30)
KNOWN_WORDS = [word for word in WORDS if not word.startswith("##")]


def tiny_stored(config: ModelConfig | None = None, model: MultiExitModel | None = None) -> StoredModel:
    """A tiny model, or one of this config, as if read from disk."""
    config = config or tiny_config(text=WINDOWED)
    model = model or tiny_model(config)
    return StoredModel(config, model, tiny_text_encoder(config), "", Path("nowhere"), "0" * 64, None)


def tiny_examples(
    stored: StoredModel, count: int, seed: int = 0, sentence_words: Sequence[int] = SENTENCE_WORDS
) -> list[Example]:
    """Texts of one or two sentences of so many words; gold is what an exit says, more often the last."""
    draw = random.Random(seed)
    texts = []
    for _ in range(count):
        lengths = draw.choices(sentence_words, k=draw.choice((1, 2)))
        texts.append(" ".join(" ".join(draw.choices(KNOWN_WORDS, k=words)).capitalize() + " ." for words in lengths))
    encoded = stored.text_encoder.encode_batch(texts)
    exits = entities_at_every_exit(eager(stored.model), stored.text_encoder, encoded)
    right = [draw.choice([*exits, exits[-1], exits[-1]]) for _ in texts]
    return [Example(text, tuple(exit_[index])) for index, (text, exit_) in enumerate(zip(texts, right, strict=True))]


def write_jsonl(path: Path, examples: Iterable[Example]) -> Path:
    """Examples whose tokens stand between single blanks, as a data file; -> `path`."""
    lines = []
    for example in examples:
        tokens = example.text.split(" ")
        ends = np.cumsum([len(token) + 1 for token in tokens]) - 1
        starts = [0, *(ends + 1).tolist()]
        entities = [[starts.index(e.start), ends.tolist().index(e.end) + 1, e.label] for e in example.entities]
        lines.append(json.dumps({"tokens": tokens, "entities": entities}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@dataclass(frozen=True)
class Traced:
    """A tiny model, some texts, what runs the one over the other, and the trace of both."""

    stored: StoredModel
    examples: Sequence[Example]
    executor: Executor

    @cached_property
    def texts(self) -> list[EncodedText]:
        return encode_examples(self.stored.text_encoder, self.examples)

    @cached_property
    def trace(self) -> Trace:
        return trace(self.stored, self.examples, "toy.jsonl", self.executor)

    @cached_property
    def replayer(self) -> Replayer:
        return Replayer(self.trace)


def traced(count: int = 24, *, nested: bool = True) -> Traced:
    """Of four layers; some texts have two sentences, some overlapping windows, one is blank."""
    stored = tiny_stored(tiny_config(text=WINDOWED, nested=nested))
    return Traced(stored, [*tiny_examples(stored, count - 1), Example(" ", ())], eager(stored.model))


def trace_of(
    tables: Sequence[Tensor],
    sentences: Sequence[Sequence[int]],
    gold: Sequence[Iterable[Key]] | None = None,
) -> Trace:
    """A trace of given tables, a packed one an exit. A word is one character, a blank, and one piece.

    sentences: per text, the words of each of its sentences
    gold: what the last exit says, where None
    """
    labels = tuple("ABCDEFGH"[: tables[0].shape[1] - 1])
    texts = []
    for of_text in sentences:
        places = np.split(2 * np.arange(sum(of_text), dtype=np.int64), np.cumsum(of_text)[:-1])
        texts.append(tuple(TracedSequence(len(words) + 2, words, words + 1, (0, len(words))) for words in places))
    if gold is None:
        said = iter(Reading(tables[-1], [words for of_text in sentences for words in of_text], nested=True).spans)
        gold = [keys(entities_of_sequences(text, [next(said) for _ in text], labels, True)) for text in texts]
    golds = tuple(frozenset(of_text) for of_text in gold)
    return Trace("made-up@1", "0" * 64, "made-up", labels, True, tuple(tables), tuple(texts), golds)


def drifting_trace(num_texts: int, num_layers: int = 4, seed: int = 0, drift: float = 0.12) -> Trace:
    """Random tables, surer of some sentences than of others, whose layers agree on much.

    Gold is what the last exit says, but for every fourth text.
    """
    random = np.random.default_rng(seed)
    sentences = [random.integers(2, 9, size=random.integers(1, 3)).tolist() for _ in range(num_texts)]
    num_words = [words for of_text in sentences for words in of_text]
    sureness = torch.from_numpy(np.repeat(random.geometric(0.04, len(num_words)), [*map(num_cells, num_words)]))
    scores = random_tables(num_words, num_layers, 3, seed, drift=drift)
    tables = [torch.log_softmax(table * sureness[:, None], dim=1) for table in scores]
    right, other = trace_of(tables, sentences), trace_of(tables[:-1], sentences)
    gold = [(one, two)[index % 4 == 3] for index, (one, two) in enumerate(zip(right.gold, other.gold, strict=True))]
    return trace_of(tables, sentences, gold)


def made_up_replay(correct: Sequence[int], *, found: int = 100, gold: int = 100) -> Replay:
    """Texts of one sequence each that leave at layer 1 of 2 and find so many entities of `gold`."""
    ones = np.ones(len(correct), dtype=np.int64)
    return Replay(ones, gold * ones, found * ones, np.array(correct), 10 * ones, 2)


class LayerMeter(CostMeter):
    """Measures nothing: a layer takes a second whatever the length, an exit a tenth."""

    def __init__(self, num_layers: int) -> None:
        self._num_layers = num_layers  # and nothing else of a CostMeter's

    def cost(self, policy: ExitPolicy) -> PolicyCost:
        """As CostMeter."""
        steps = [1 + 0.1 * policy.needs_exit(layer, self._num_layers) for layer in range(1, self._num_layers + 1)]
        return PolicyCost(np.array([1]), np.cumsum(steps)[:, None])
