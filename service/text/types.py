"""What the text path hands on: texts cut into sequences of words and pieces. No tensors live here."""

from __future__ import annotations

from dataclasses import dataclass

from service.spans.types import IntArray


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class SequenceInput:
    """One sentence, or one window of a sentence too long for the model: what the model reads, and the way back.

    piece_ids   (pieces,) vocabulary ids, the special first and last piece included
    shape_ids   (pieces,) word-shape class of the word each piece belongs to (`words.WORD_SHAPES`)
    first_piece, last_piece (words,) index into `piece_ids` of every word's first and last piece
    word_starts, word_ends (words,) character offsets in the text
    owned       the range of words [first, last) for which this sequence answers: all of them, except in a window,
                which leaves the outer half of an overlap to its neighbour
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
        """Character offset of the first word."""
        return int(self.word_starts[0])

    @property
    def end(self) -> int:
        """Character offset after the last word."""
        return int(self.word_ends.max())


@dataclass(frozen=True, slots=True, eq=False)
class EncodedText:
    """A text and its sequences, in text order; an empty or blank text has none."""

    text: str
    sequences: tuple[SequenceInput, ...]

    @property
    def num_pieces(self) -> int:
        return sum(sequence.num_pieces for sequence in self.sequences)
