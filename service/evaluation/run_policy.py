"""A policy on texts, run as the server runs it: for strategies that change what deeper layers see, where no replay can.

Under a strategy by which words halt one by one, what a layer says depends on who halted before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from service.data.readers import Example
from service.evaluation.evaluate import encode_examples, score_json
from service.evaluation.predict import entities_of_texts
from service.evaluation.replay import Replay
from service.executors.executor import Executor, State
from service.exits.policy import Evidence, ExitPolicy
from service.exits.reading import Figures, Reading
from service.exits.words import WordPolicy, Words
from service.models.batches import length_buckets
from service.spans.score import Score, keys
from service.spans.types import IntArray, Span
from service.text.encoder import TextEncoder
from service.text.types import SequenceInput


@dataclass(slots=True, eq=False)
class Passage:
    """One sequence on its way through the layers; `spans` once it has left."""

    input: SequenceInput
    words: Words
    state: State | None = None
    readings: list[Reading] = field(default_factory=list)
    history: list[Evidence] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)


def run_policy(executor: Executor, policy: ExitPolicy, inputs: Sequence[SequenceInput]) -> list[Passage]:
    """One batch: all sequences set out together, and each leaves when the policy says so."""
    passages = [Passage(one, Words.of(one)) for one in inputs]
    num_layers, under_way = executor.config.num_layers, passages
    for layer in range(1, num_layers + 1):
        _run_layer(executor, policy, layer, under_way)
        staying = []
        for passage in under_way:
            if policy.decide(passage.history, num_layers) is None:
                staying.append(passage)
            else:
                passage.spans = policy.prediction(passage.readings).spans[0]
                passage.state = None
                passage.readings.clear()
        under_way = staying
        if not under_way:
            break
    return passages


def _run_layer(executor: Executor, policy: ExitPolicy, layer: int, passages: Sequence[Passage]) -> None:
    """A layer of all that are under way, and what the policy sees after it."""
    by_word, num_layers = isinstance(policy, WordPolicy), executor.config.num_layers
    states, reading = executor.run_layer(
        layer,
        [passage.input for passage in passages],
        [passage.state for passage in passages],
        with_exit=_needs_exit(policy, layer, num_layers, passages),
        with_table=policy.compares_tables,
        active=[passage.words.moving for passage in passages] if by_word else None,
    )
    parts: Sequence[Reading | None] = [None] * len(passages) if reading is None else reading.split()
    for passage, state, part in zip(passages, states, parts, strict=True):
        passage.state = state
        if part is not None:
            passage.readings.append(part)
        words = passage.words.after(layer, part.word_uncertainty if part and by_word else None)
        if isinstance(policy, WordPolicy) and layer < num_layers:
            words = replace(words, moving=policy.go_on(layer, num_layers, passage.input, words))
        passage.words = words
    evidence = _evidence(policy, layer, num_layers, passages, reading)
    for passage, seen in zip(passages, evidence, strict=True):
        passage.history.append(seen)


def _needs_exit(policy: ExitPolicy, layer: int, num_layers: int, passages: Sequence[Passage]) -> bool:
    if isinstance(policy, WordPolicy):
        return any(policy.needs_exit_of(layer, num_layers, passage.input) for passage in passages)
    return policy.needs_exit(layer, num_layers)


def _evidence(
    policy: ExitPolicy, layer: int, num_layers: int, passages: Sequence[Passage], reading: Reading | None
) -> list[Evidence]:
    if isinstance(policy, WordPolicy):
        return [(float(passage.words.moving.sum()),) for passage in passages]
    if reading is None or layer == num_layers:
        return [()] * len(passages)
    earlier = zip(*(passage.readings[:-1] for passage in passages), strict=True)
    rows = policy.evidence([*(Reading.join(of_layer) for of_layer in earlier), reading]).tolist()
    return [tuple(row) for row in rows]


@dataclass(frozen=True, slots=True, eq=False)
class PolicyRun:
    """What a policy gives on texts.

    gold, found, correct  (texts,) entities
    num_pieces            (sequences,); num_layers of the model
    layers                (words,) how many layers moved each word
    exit_layers           (sequences,) mean over the words of each
    """

    gold: IntArray
    found: IntArray
    correct: IntArray
    layers: IntArray
    exit_layers: Figures
    num_pieces: IntArray
    num_layers: int

    @property
    def replay(self) -> Replay:
        """The same as a replay has it."""
        return Replay(self.exit_layers, self.gold, self.found, self.correct, self.num_pieces, self.num_layers)

    @property
    def micro(self) -> Score:
        """Counts over all texts."""
        return Score(int(self.gold.sum()), int(self.found.sum()), int(self.correct.sum()))

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types; F1, precision and recall are x 100."""
        return {
            **score_json(self.micro),
            "average_exit_layer": round(float(self.exit_layers.mean()), 4),
            "average_layers_by_word": round(float(self.layers.mean()), 4),
            "sequences": len(self.exit_layers),
        }


def evaluate_policy(
    executor: Executor,
    text_encoder: TextEncoder,
    examples: Sequence[Example],
    policy: ExitPolicy,
    *,
    split: bool = True,
    max_pieces: int = 4_096,
) -> PolicyRun:
    """Run a policy over annotated texts, in batches of like length."""
    texts = encode_examples(text_encoder, examples, split=split)
    sequences = [sequence for text in texts for sequence in text.sequences]
    passages: list[Passage | None] = [None] * len(sequences)
    for batch in length_buckets(sequences, max_pieces):
        found = run_policy(executor, policy, [sequences[index] for index in batch])
        for index, passage in zip(batch, found, strict=True):
            passages[index] = passage
    done = [passage for passage in passages if passage is not None]
    entities = entities_of_texts(text_encoder, texts, [passage.spans for passage in done])
    pairs = [(keys(example.entities), keys(of_text)) for example, of_text in zip(examples, entities, strict=True)]
    layers = [passage.words.layers for passage in done]
    return PolicyRun(
        np.array([len(gold) for gold, _ in pairs]),
        np.array([len(found) for _, found in pairs]),
        np.array([len(gold & found) for gold, found in pairs]),
        np.concatenate(layers),
        np.array([of_words.mean() for of_words in layers]),
        np.array([sequence.num_pieces for sequence in sequences]),
        executor.config.num_layers,
    )
