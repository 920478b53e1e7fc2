"""Runs a policy over texts as the server does: for strategies that cannot be replayed from a trace.

Under a strategy that halts words one by one, what a layer says depends on which words have halted before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.data.readers import Example
from service.evaluation.evaluate import encode_examples, score_json
from service.evaluation.predict import entities_of_texts
from service.evaluation.replay import Replay
from service.executors.executor import Executor
from service.exits.policy import ExitPolicy
from service.models.batches import length_buckets
from service.spans.score import Score, keys
from service.spans.types import DoubleArray, IntArray
from service.stepping.advance import run
from service.stepping.passage import Passage
from service.text.encoder import TextEncoder
from service.text.types import SequenceInput


def run_policy(executor: Executor, policy: ExitPolicy, inputs: Sequence[SequenceInput]) -> list[Passage]:
    """Run sequences together as one batch; return their passages, decoded and released."""
    passages = [Passage(one, policy) for one in inputs]
    for passage in run(executor, passages):
        passage.spans = passage.decode()
        passage.release()
    return passages


@dataclass(frozen=True, slots=True, eq=False)
class PolicyRun:
    """Holds what a policy gives on texts.

    gold, found, correct  (texts,) how many entities are annotated, found, and found correctly
    layers                (words,) how many layers moved each word
    layers_run            (sequences,) mean of `layers` over the words of each sequence
    num_pieces            (sequences,) word pieces of each sequence
    num_layers            of the model
    """

    gold: IntArray
    found: IntArray
    correct: IntArray
    layers: IntArray
    layers_run: DoubleArray
    num_pieces: IntArray
    num_layers: int

    @property
    def replay(self) -> Replay:
        """The same result as a `Replay`."""
        return Replay(self.layers_run, self.gold, self.found, self.correct, self.num_pieces, self.num_layers)

    @property
    def micro(self) -> Score:
        """The counts of all texts together."""
        return Score(int(self.gold.sum()), int(self.found.sum()), int(self.correct.sum()))

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain JSON types; F1, precision and recall are x 100."""
        return {
            **score_json(self.micro),
            "average_exit_layer": round(float(self.layers_run.mean()), 4),
            "average_layers_by_word": round(float(self.layers.mean()), 4),
            "sequences": len(self.layers_run),
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
    """Run a policy over annotated texts, in batches of sequences of similar length."""
    texts = encode_examples(text_encoder, examples, split=split)
    sequences = [sequence for text in texts for sequence in text.sequences]
    found: dict[int, Passage] = {}
    for batch in length_buckets(sequences, max_pieces):
        found |= zip(batch, run_policy(executor, policy, [sequences[index] for index in batch]), strict=True)
    in_order = [found[index] for index in range(len(sequences))]
    entities = entities_of_texts(text_encoder, texts, [passage.spans for passage in in_order])
    pairs = [
        (gold := keys(example.entities), example.annotation.counted(keys(of_text), gold))
        for example, of_text in zip(examples, entities, strict=True)
    ]
    layers = [_word_layers(passage) for passage in in_order]
    return PolicyRun(
        np.array([len(gold) for gold, _ in pairs]),
        np.array([len(found) for _, found in pairs]),
        np.array([len(gold & found) for gold, found in pairs]),
        np.concatenate(layers),
        np.array([of_words.mean() for of_words in layers]),
        np.array([sequence.num_pieces for sequence in sequences]),
        executor.config.num_layers,
    )


def _word_layers(passage: Passage) -> IntArray:
    """Return how many layers moved each word: (words,)."""
    if passage.words is None:
        return np.full(passage.input.num_words, passage.layer)
    return passage.words.layers
