"""Samples the traffic: draws sentences with a known probability and keeps them, packed, until somebody runs them.

The probability of a sentence depends on how full the buffer is, never on the sentence, so it is fixed before its
outcome. When the buffer fills, the probability falls for what comes next; what was drawn is never dropped. Of a text it
keeps the pieces alone, without a place in the text, and nothing once a sample has been taken out to be run.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from service.errors import BadInput
from service.spans.types import IntArray
from service.text.types import SequenceInput

HALVINGS = 4  # of the probability while the second half of the buffer fills: it then takes some four times as long
MAX_WEIGHT = 2**HALVINGS
BYTES_OF_A_SAMPLE = 256  # that Python takes for one, beside its pieces
_PIECE, _SHAPE, _PLACE = np.dtype(np.int32), np.dtype(np.uint8), np.dtype(np.int16)


@dataclass(frozen=True, slots=True)
class SamplingDesign:
    """Says how likely a sentence is drawn, and how much room the drawn ones have.

    fraction        the highest probability, that of a sentence while the buffer is less than half full; 0: draw none
    limit_bytes     of the buffer
    longest_pieces  of a sequence of the model: where there is no room for so long a one, none is drawn
    Raises BadInput for a fraction beyond [0, 1] or a limit that has no room for one sample.
    """

    fraction: float
    limit_bytes: int
    longest_pieces: int

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 1:
            raise BadInput(f"the fraction that is sampled is {self.fraction!r}; expected a number from 0 to 1")
        if self.fraction and self.limit_bytes < self.bytes_of_longest:
            raise BadInput(
                f"the buffer for samples has {self.limit_bytes} bytes, but a sequence of {self.longest_pieces} pieces "
                f"takes {self.bytes_of_longest}; allow more, or sample none"
            )

    @property
    def bytes_of_longest(self) -> int:
        """The most bytes that a sample takes."""
        words = self.longest_pieces - 2  # beside the two special pieces, a word has at least one
        packed = self.longest_pieces * (_PIECE.itemsize + _SHAPE.itemsize) + 2 * max(words, 1) * _PLACE.itemsize
        return BYTES_OF_A_SAMPLE + packed

    def probability(self, used_bytes: int) -> float:
        """Return the probability with which the next sentence is drawn, whatever it is, when so many bytes are used.

        It is `fraction` up to half of the limit, half of that in the next eighth, and so on, at least
        `fraction` / MAX_WEIGHT; but 0 if a sample of the longest kind would have no room.
        """
        if used_bytes + self.bytes_of_longest > self.limit_bytes:
            return 0.0
        halvings = (
            0 if 2 * used_bytes < self.limit_bytes else 1 + int(2 * HALVINGS * (used_bytes / self.limit_bytes - 0.5))
        )
        return float(self.fraction * 0.5 ** min(halvings, HALVINGS))


@dataclass(frozen=True, slots=True)
class Sample:
    """Holds a drawn sentence until it is run.

    probability  with which it was drawn
    least        the lowest probability above 0 that any sentence had since the sample before, this one included
    position     how many sentences had been offered before it
    packed       its pieces and words
    num_pieces   how many pieces
    owned        the words that it answers for, as in SequenceInput
    """

    probability: float
    least: float
    position: int
    packed: bytes
    num_pieces: int
    owned: tuple[int, int]

    @property
    def num_bytes(self) -> int:
        """What it takes in the buffer."""
        return BYTES_OF_A_SAMPLE + len(self.packed)

    def sequence(self) -> SequenceInput:
        """Return what the model reads. Its words have places 0, 1, ... since those in the text were not kept."""
        pieces = self.num_pieces
        shapes_at = pieces * _PIECE.itemsize
        words_at = shapes_at + pieces * _SHAPE.itemsize
        places = np.frombuffer(self.packed, _PLACE, offset=words_at).astype(np.int64).reshape(2, -1)
        words = np.arange(places.shape[1])
        return SequenceInput(
            piece_ids=np.frombuffer(self.packed, _PIECE, pieces).astype(np.int64),
            shape_ids=np.frombuffer(self.packed, _SHAPE, pieces, shapes_at).astype(np.int64),
            first_piece=places[0],
            last_piece=places[1],
            word_starts=words,
            word_ends=words + 1,
            owned=self.owned,
        )


@dataclass(slots=True)
class SampleCounts:
    """Counts what has happened to the sentences that were offered.

    offered    in all
    drawn      those that were drawn
    uncovered  those that could not be drawn, since there was no room: nothing that is estimated holds for them
    run        samples taken out to be run
    """

    offered: int = 0
    drawn: int = 0
    uncovered: int = 0
    run: int = 0


class SampleBuffer:
    """Keeps the drawn sentences in the order in which they came; so what has been run is always a stretch of traffic.

    It belongs to one thread.
    """

    def __init__(self, design: SamplingDesign) -> None:
        self.design = design
        self.counts = SampleCounts()
        self.used_bytes = 0
        self._samples: deque[Sample] = deque()
        self._least = design.fraction

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def probability(self) -> float:
        """The probability with which the next sentence is drawn."""
        return self.design.probability(self.used_bytes)

    def offer(self, sequence: SequenceInput, draw: float) -> bool:
        """Draw a sentence with the probability of this moment; return whether it was drawn.

        draw: an independent random number, uniform in [0, 1)
        """
        probability = self.probability
        position = self.counts.offered
        self.counts.offered += 1
        if not probability:
            self.counts.uncovered += 1
            return False
        self._least = min(self._least, probability)
        if draw >= probability:
            return False
        sample = Sample(probability, self._least, position, _pack(sequence), sequence.num_pieces, sequence.owned)
        self._least = self.design.fraction
        self._samples.append(sample)
        self.used_bytes += sample.num_bytes
        self.counts.drawn += 1
        return True

    def take(self) -> Sample:
        """Take out the oldest sample, which the buffer then forgets. Raises IndexError if there is none."""
        sample = self._samples.popleft()
        self.used_bytes -= sample.num_bytes
        self.counts.run += 1
        return sample

    def weight(self, sample: Sample) -> float:
        """Return how many sentences, of those that are sampled most, a sample stands for: at least 1."""
        return self.design.fraction / sample.probability

    def heaviest(self, sample: Sample) -> float:
        """Return the largest weight that a sentence would have had since the sample before: at least `weight`."""
        return self.design.fraction / sample.least


def _pack(sequence: SequenceInput) -> bytes:
    places: IntArray = np.concatenate([sequence.first_piece, sequence.last_piece])
    return b"".join(
        (
            sequence.piece_ids.astype(_PIECE).tobytes(),
            sequence.shape_ids.astype(_SHAPE).tobytes(),
            places.astype(_PLACE).tobytes(),
        )
    )
