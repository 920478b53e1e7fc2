"""Runs sequences to full depth and computes every exit, for traces, evaluation and the sampling of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from service.executors.executor import Executor
from service.exits.policies.full_depth import FullDepth
from service.exits.reading import Reading
from service.exits.words import WordProgress
from service.models.batches import length_buckets
from service.spans.types import IntArray
from service.stepping.advance import run
from service.stepping.passage import Passage
from service.text.types import SequenceInput

WordLayers = Callable[[SequenceInput], IntArray]


@dataclass(frozen=True, slots=True)
class HaltingAsTold(FullDepth):
    """Runs to full depth while words halt after given layers.

    word_layers  returns the layer after which each word of a sequence halts: (words,)
    """

    word_layers: WordLayers = field(kw_only=True)

    def start(self, sequence: SequenceInput) -> WordProgress:
        """Return the words before the first layer: all move."""
        return WordProgress.of(sequence)

    def words_after(
        self, layer: int, num_layers: int, sequence: SequenceInput, words: WordProgress, reading: Reading | None
    ) -> WordProgress:
        """Return the words after `layer`, some of them halted there."""
        return replace(words.after(layer, None), moving=self.word_layers(sequence) > layer)


def run_to_full_depth(
    executor: Executor,
    sequences: Sequence[SequenceInput],
    *,
    max_pieces: int = 4096,
    word_layers: WordLayers | None = None,
) -> Iterator[tuple[list[int], list[Reading]]]:
    """Yield for every batch the indices of its sequences, and one reading per exit, tables included.

    max_pieces   of a batch
    word_layers  returns the layer after which each word of a sequence halts: (words,); None: no word halts
    """
    policy = FullDepth() if word_layers is None else HaltingAsTold(word_layers=word_layers)
    for batch in length_buckets(sequences, max_pieces):
        passages = [Passage(sequences[index], policy, keeps_every_exit=True) for index in batch]
        for passage in run(executor, passages):
            passage.state = None
        yield batch, [Reading.join(of_exit) for of_exit in zip(*(passage.seen for passage in passages), strict=True)]
