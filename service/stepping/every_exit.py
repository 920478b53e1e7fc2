"""Runs to full depth at which every exit is computed: what traces, evaluation and self-sampling need."""

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
    """Full depth in which words halt where they are told to: (words,) after which layer each one does."""

    word_layers: WordLayers = field(kw_only=True)

    def start(self, sequence: SequenceInput) -> WordProgress:
        """Return all words, moving."""
        return WordProgress.of(sequence)

    def words_after(
        self, layer: int, num_layers: int, sequence: SequenceInput, words: WordProgress, reading: Reading | None
    ) -> WordProgress:
        """Return the words one layer further."""
        return replace(words.after(layer, None), moving=self.word_layers(sequence) > layer)


def run_to_full_depth(
    executor: Executor,
    sequences: Sequence[SequenceInput],
    *,
    max_pieces: int = 4096,
    word_layers: WordLayers | None = None,
) -> Iterator[tuple[list[int], list[Reading]]]:
    """Yield batch by batch which sequences were run, and what every exit said of them, tables included.

    word_layers: after which layers a sequence's words halt; None: none does
    """
    policy = FullDepth() if word_layers is None else HaltingAsTold(word_layers=word_layers)
    for batch in length_buckets(sequences, max_pieces):
        passages = [Passage(sequences[index], policy, keeps_every_exit=True) for index in batch]
        for passage in run(executor, passages):
            passage.state = None
        yield batch, [Reading.join(of_exit) for of_exit in zip(*(passage.seen for passage in passages), strict=True)]
