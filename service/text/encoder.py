"""The only text path: text -> sentences -> words -> pieces -> sequences, and spans of words -> entities by character.

Training data and requests both use it, so a model is never trained on a segmentation that serving does not produce.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from tokenizers import Encoding, Tokenizer

from service.errors import ModelRefused
from service.spans.decode import keep_compatible
from service.spans.types import Entity, IntArray, Span
from service.text.sentences import split_sentences
from service.text.types import EncodedText, SequenceInput
from service.text.windows import cut_windows
from service.text.words import TableUnit, Words, find_words, split_symbols

SLICE_CHARS = 100_000  # that the tokenizer is given at a time: some ten milliseconds of work
PART_SEQUENCES = 200  # that are made at a time, likewise

Cutting = Generator[int, None, list[EncodedText]]


@dataclass(frozen=True, slots=True)
class TextConfig:
    """Says how texts are cut for a model; it is part of the model's config.

    language        ISO 639-1 code, for sentence splitting
    table_unit      whether rows and columns of the span table are words or pieces
    window_pieces   the most pieces that a sequence may have, including the two special ones
    overlap_pieces  about how many pieces neighbouring windows of one sentence share
    """

    language: str = "en"
    table_unit: TableUnit = "words"
    window_pieces: int = 256
    overlap_pieces: int = 64


class TextEncoder:
    """Cuts texts into sequences, and turns the spans of sequences into entities; safe to use from several threads."""

    def __init__(self, tokenizer: Tokenizer, config: TextConfig, labels: Sequence[str], nested: bool) -> None:
        """Prepare to cut texts by `config`.

        labels: names of table labels 1, 2, ...; label 0, which means no entity, has no name
        Raises ModelRefused for a tokenizer that does not put exactly two special pieces around a sequence.
        """
        split_symbols(tokenizer)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True  # "[SEP]" in a text is text
        specials = tokenizer.encode("").ids
        if len(specials) != 2:
            raise ModelRefused(
                f"the tokenizer puts {len(specials)} special pieces around a sequence; "
                "expected two, as BERT's [CLS] and [SEP]"
            )
        self._tokenizer = tokenizer
        self._first_special, self._last_special = specials
        self._config = config
        self._labels = tuple(labels)
        self._nested = nested

    def encode(self, text: str, *, split: bool = True) -> EncodedText:
        """Cut one text; `split=False` takes it as a single sentence. A blank text has no sequences."""
        (encoded,) = self.encode_batch([text], split=split)
        return encoded

    def encode_batch(self, texts: Sequence[str], *, split: bool = True) -> list[EncodedText]:
        """Cut many texts at once, as `encode` does."""
        cutting = self.cutting(texts, split=split)
        while True:
            try:
                next(cutting)
            except StopIteration as done:
                encoded: list[EncodedText] = done.value
                return encoded

    def cutting(self, texts: Sequence[str], *, split: bool = True) -> Cutting:
        """Cut many texts as `encode_batch` does, but a part of the work each time that the generator is asked.

        It yields after each part how many pieces the texts have that the tokenizer has read; whoever needs no more of
        them closes the generator. A part takes some ten milliseconds, and of a text that is hard to split up to some
        hundred. It returns the texts.
        """
        encoded: list[EncodedText] = []
        num_pieces = 0
        for some in _slices(texts, SLICE_CHARS):
            encodings = self._tokenizer.encode_batch(some, add_special_tokens=False)
            num_pieces += sum(map(len, encodings))
            yield num_pieces
            for text, encoding in zip(some, encodings, strict=True):
                sequences: list[SequenceInput] = []
                for _ in self._cut(text, encoding, split, sequences):
                    yield num_pieces
                encoded.append(EncodedText(text, tuple(sequences)))
        return encoded

    def _cut(self, text: str, encoding: Encoding, split: bool, sequences: list[SequenceInput]) -> Iterator[None]:
        """Append the sequences of a text to `sequences`; yield between two parts of the work."""
        words = find_words(text, encoding, self._config.table_unit)
        yield
        if not len(words):
            return
        capacity = self._config.window_pieces - 2
        sentence_ends = [end for _, end in split_sentences(text, self._config.language)] if split else [len(text)]
        yield
        last_words = [len(words)]
        if len(sentence_ends) > 1:  # a word belongs to the sentence it starts in
            last_words = np.searchsorted(words.starts, sentence_ends).tolist()
        first = made = 0
        for last in last_words:
            if last > first:
                windows = cut_windows(words.bounds, first, last, capacity, self._config.overlap_pieces)
                sequences += [self._sequence(words, *window) for window in windows]
                first = last
            if len(sequences) >= made + PART_SEQUENCES:
                made = len(sequences)
                yield

    def _sequence(self, words: Words, first: int, last: int, own_first: int, own_last: int) -> SequenceInput:
        """Make a sequence of the words [first, last), which answers for the words [own_first, own_last).

        Only a word with more pieces than a window holds loses pieces: its last ones.
        """
        first_piece = words.bounds[first:last] - (words.bounds[first] - 1)  # the first is the special one
        last_piece = words.bounds[first + 1 : last + 1] - words.bounds[first]
        num_pieces = min(int(last_piece[-1]), self._config.window_pieces - 2)
        last_piece[-1] = num_pieces
        from_piece = words.bounds[first]
        piece_ids = np.empty(num_pieces + 2, dtype=np.int64)
        piece_ids[0], piece_ids[-1] = self._first_special, self._last_special
        piece_ids[1:-1] = words.piece_ids[from_piece : from_piece + num_pieces]
        shape_ids = np.zeros(num_pieces + 2, dtype=np.int64)
        shape_ids[1:-1] = words.shape_ids[first:last].repeat(last_piece - first_piece + 1)
        return SequenceInput(
            piece_ids=piece_ids,
            shape_ids=shape_ids,
            first_piece=first_piece,
            last_piece=last_piece,
            word_starts=words.starts[first:last],
            word_ends=words.ends[first:last],
            owned=(own_first - first, own_last - first),
        )

    def entities(self, encoded: EncodedText, spans: Sequence[Sequence[Span]]) -> list[Entity]:
        """Return the entities of a text, given the spans of each of its sequences; by start, longer ones first."""
        return entities_of_sequences(encoded.sequences, spans, self._labels, self._nested)


def _slices(texts: Sequence[str], max_chars: int) -> Iterator[list[str]]:
    """Yield the texts in order, some at a time: as many as have `max_chars` characters, and at least one."""
    some: list[str] = []
    chars = 0
    for text in texts:
        if some and chars + len(text) > max_chars:
            yield some
            some, chars = [], 0
        some.append(text)
        chars += len(text)
    if some:
        yield some


class Placed(Protocol):
    """The part of a sequence that says where its words are in the text; see SequenceInput."""

    @property
    def word_starts(self) -> IntArray: ...
    @property
    def word_ends(self) -> IntArray: ...
    @property
    def owned(self) -> tuple[int, int]: ...
    @property
    def num_words(self) -> int: ...


def entities_of_sequences(
    sequences: Sequence[Placed], spans: Sequence[Sequence[Span]], labels: Sequence[str], nested: bool
) -> list[Entity]:
    """Return the entities of one text, given the spans of each of its sequences; by start, longer ones first.

    A span counts only if its window owns the span's first word. Where spans of neighbouring windows cross (or, in a
    flat model, overlap), the more probable one stays, as in decoding.
    """
    found: list[Entity] = []
    windowed = False
    for sequence, sequence_spans in zip(sequences, spans, strict=True):
        own_first, own_last = sequence.owned
        windowed |= own_last - own_first < sequence.num_words
        starts, ends = sequence.word_starts, sequence.word_ends
        found += [
            Entity(int(starts[span.start]), int(ends[span.end - 1]), labels[span.label - 1], span.score)
            for span in sequence_spans
            if own_first <= span.start < own_last
        ]
    if windowed and found:
        starts_of, ends_of = [entity.start for entity in found], [entity.end for entity in found]
        kept = keep_compatible(starts_of, ends_of, [-entity.score for entity in found], nested=nested)
        found = [found[index] for index in kept]
    return sorted(found, key=lambda entity: (entity.start, -entity.end, entity.label))
