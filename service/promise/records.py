"""What is kept of samples that were run: numbers of every exit, from which any threshold and rule can be replayed.

Nothing of a text is in it: neither words nor pieces nor entities, but how sure the exits were, and how many of their
entities were full depth's. Who keeps records, and for how long, is known elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from service.errors import BadInput
from service.exits.policies.learned import FEATURES, features
from service.exits.reading import Reading
from service.promise.scoring import counts_of_exits
from service.spans.types import FloatArray, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class SampleRecords:
    """Holds the numbers of some samples, oldest first; layers count from 1, and index 0 is layer 1.

    features  (samples, layers - 1, FEATURES) float32 what the learned rule looks at after every exit but the last
    correct   (samples, layers) entities that an exit and full depth both answer
    errors    (samples, layers) entities that only one of them answers
    pieces    (samples,) word pieces
    weights   (samples,) how many sentences, of those that are sampled most, each stands for
    """

    features: FloatArray
    correct: IntArray
    errors: IntArray
    pieces: IntArray
    weights: FloatArray

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def num_layers(self) -> int:
        """Of the model."""
        return int(self.correct.shape[1])

    def part(self, which: slice | IntArray) -> SampleRecords:
        """Return some of the samples."""
        return SampleRecords(*(getattr(self, field.name)[which] for field in fields(self)))

    def to_bytes(self) -> bytes:
        """Return it as a safetensors file."""
        return save({field.name: np.ascontiguousarray(getattr(self, field.name)) for field in fields(self)})

    @classmethod
    def from_bytes(cls, data: bytes) -> SampleRecords:
        """Read what `to_bytes` returned. Raises BadInput for anything else."""
        try:
            found = load(data)
            read = cls(
                features=np.asarray(found["features"], dtype=np.float32),
                correct=np.asarray(found["correct"], dtype=np.int64),
                errors=np.asarray(found["errors"], dtype=np.int64),
                pieces=np.asarray(found["pieces"], dtype=np.int64),
                weights=np.asarray(found["weights"], dtype=np.float32),
            )
            count, layers = read.correct.shape
            shapes = [getattr(read, field.name).shape for field in fields(read)]
        except (SafetensorError, LookupError, TypeError, ValueError) as error:
            raise BadInput(f"these are no records of samples: {error!r}") from error
        if shapes != [(count, layers - 1, len(FEATURES)), (count, layers), (count, layers), (count,), (count,)]:
            raise BadInput(f"these are no records of samples: their shapes are {shapes}; is it of this version?")
        return read


class RecordBuffer:
    """Keeps the records of the latest samples; older ones are overwritten. Its memory is taken at once."""

    def __init__(self, most: int, num_layers: int) -> None:
        """most: samples that are kept, 0 or more."""
        self._most = most
        self._count = 0  # added so far
        self._kept = SampleRecords(
            features=np.zeros((most, num_layers - 1, len(FEATURES)), dtype=np.float32),
            correct=np.zeros((most, num_layers), dtype=np.int64),
            errors=np.zeros((most, num_layers), dtype=np.int64),
            pieces=np.zeros(most, dtype=np.int64),
            weights=np.zeros(most, dtype=np.float32),
        )

    def __len__(self) -> int:
        return min(self._count, self._most)

    def add(self, readings: Sequence[Reading], owned: tuple[int, int], num_pieces: int, weight: float) -> None:
        """Record a sample.

        readings  of every exit, of this one sample
        owned     the words that it answers for, as in SequenceInput
        weight    how many sentences, of those that are sampled most, it stands for
        """
        if not self._most:
            return
        at = self._count % self._most
        seen = [features(readings[:layer])[0] for layer in range(1, len(readings))]
        counts = counts_of_exits(readings, [owned])[:, 0]  # (layers, 3)
        self._kept.features[at] = np.array(seen, dtype=np.float32).reshape(-1, len(FEATURES))
        self._kept.correct[at] = counts[:, 0]
        self._kept.errors[at] = counts[:, 1] + counts[:, 2]
        self._kept.pieces[at] = num_pieces
        self._kept.weights[at] = weight
        self._count += 1

    def records(self) -> SampleRecords:
        """Return a copy of what is kept, oldest first."""
        first = self._count % self._most if self._count > self._most else 0
        return self._kept.part((first + np.arange(len(self))) % max(self._most, 1))
