"""Types that the text path produces: texts cut into sequences of words and pieces. No tensors live here."""

from __future__ import annotations

from dataclasses import dataclass

from service.spans.types import IntArray


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class SequenceInput:
    """Holds one sentence, or one window of a long sentence: what the model reads, and where its words are in the text.

    piece_ids                (pieces,) vocabulary ids, including the special first and last piece
    shape_ids                (pieces,) class of spelling of the word of each piece: an index into `words.WORD_SHAPES`
    first_piece, last_piece  (words,) indices into `piece_ids` of every word's first and last piece, inclusive
    word_starts, word_ends   (words,) character offsets in the text, ends exclusive
    owned                    the range of words [first, last) for which this sequence answers: all words, but in a
                             window not the outer half of an overlap, for which the neighbour answers
    """

    piece_ids: IntArray
    shape_ids: IntArray
    first_piece: IntArray
    last_piece: IntArray
    word_starts: IntArray
    word_ends: IntArray
    owned: tuple[int, int]

    @property
    def num_pieces(self) -> int:
        return len(self.piece_ids)

    @property
    def num_words(self) -> int:
        return len(self.first_piece)

    @property
    def start(self) -> int:
        """The character offset where the first word begins."""
        return int(self.word_starts[0])

    @property
    def end(self) -> int:
        """The character offset where the last word ends, exclusive."""
        return int(self.word_ends.max())


@dataclass(frozen=True, slots=True, eq=False)
class EncodedText:
    """Holds a text and its sequences, in text order; an empty or blank text has none."""

    text: str
    sequences: tuple[SequenceInput, ...]

    @property
    def num_pieces(self) -> int:
        return sum(sequence.num_pieces for sequence in self.sequences)
