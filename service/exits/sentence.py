"""What a strategy that decides word by word knows of a sequence: how its pieces make up words."""

from __future__ import annotations

from typing import Protocol

from service.spans.types import IntArray


class Sentence(Protocol):
    """As `service.text.types.SequenceInput`, which is one."""

    @property
    def piece_ids(self) -> IntArray:
        """(pieces,) vocabulary ids, special ones included"""

    @property
    def first_piece(self) -> IntArray:
        """(words,) index of every word's first piece"""

    @property
    def last_piece(self) -> IntArray:
        """(words,) index of every word's last piece"""

    @property
    def num_pieces(self) -> int:
        """Of all words, and special ones."""

    @property
    def num_words(self) -> int:
        """Of the sequence."""
