"""The form in which replicas tell each other the scores of their samples: no text, no pieces, counts alone."""

from __future__ import annotations

import hashlib
import json
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.errors import BadInput
from service.exits.policy import ExitPolicy
from service.levels.on_traffic import ScoredSample
from service.policy.versions import HIGHEST_VERSION
from service.promise.sampling import MAX_WEIGHT
from service.promise.scoring import Scores

LONGEST_NAME = 64
MOST_ENTITIES = 100_000  # that a sample can have, far above what any has
_COUNTS = ("exit_layers", "true_positives", "false_positives", "false_negatives")


@dataclass(frozen=True, slots=True, eq=False)
class SampleEntry:
    """One sample of one replica.

    replica  a name that no other process has had
    number   1, 2, ...: of the entries that this replica has sent
    version  of the policy that was in force there when the sample was scored
    """

    replica: str
    number: int
    version: int
    sample: ScoredSample

    def __post_init__(self) -> None:
        for name in ("number", "version"):
            if type(value := getattr(self, name)) is not int or not 1 <= value <= HIGHEST_VERSION:
                raise BadInput(f"{name} is {value!r}; expected an integer from 1 on")
        if not isinstance(self.replica, str) or not 1 <= len(self.replica) <= LONGEST_NAME:
            raise BadInput(f"replica is {reprlib.repr(self.replica)}; expected 1 to {LONGEST_NAME} characters")


class SampleEntries:
    """Writes entries of samples that were scored for some levels, and reads those that others have written."""

    def __init__(self, levels: Sequence[ExitPolicy], num_layers: int, of: object) -> None:
        """of: in JSON, what else samples must have in common to be summed, such as the weights of the model."""
        self.levels = tuple(levels)
        self._num_layers = num_layers
        told = json.dumps([_COUNTS, [level.to_json() for level in levels], num_layers, of], sort_keys=True)
        self._digest = hashlib.sha256(told.encode()).hexdigest()[:16]

    def written(self, entry: SampleEntry) -> str:
        """Return an entry as text."""
        sample = entry.sample
        told = {
            "levels": self._digest,
            "replica": entry.replica,
            "number": entry.number,
            "version": entry.version,
            "weight": sample.weight,
            "heaviest": sample.heaviest,
            **{name: getattr(sample.scores, name)[0].tolist() for name in _COUNTS},
        }
        return json.dumps(told, separators=(",", ":"))

    def read(self, text: bytes) -> SampleEntry | None:
        """Return the entry of a text, None if it is of other levels. Raises BadInput for what is no entry."""
        try:
            told = json.loads(text.decode())
            if told["levels"] != self._digest:
                return None
            return SampleEntry(told["replica"], told["number"], told["version"], self._sample(told))
        except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
            raise BadInput(f"this is no entry of a sample: {error}") from error

    def _sample(self, told: dict[str, Any]) -> ScoredSample:
        weight, heaviest = told["weight"], told["heaviest"]
        if not 1 <= weight <= heaviest <= MAX_WEIGHT:
            raise BadInput(f"weight is {weight!r}, heaviest {heaviest!r}; expected 1 <= both <= {MAX_WEIGHT}, in order")
        counts = np.array([told[name] for name in _COUNTS])
        if counts.dtype.kind != "i" or counts.shape != (len(_COUNTS), len(self.levels)):
            raise BadInput(f"counts are of shape {counts.shape}; expected integers, for {len(self.levels)} levels")
        layers = counts[0]
        if layers.min() < 1 or layers.max() > self._num_layers or counts.min() < 0 or counts.max() > MOST_ENTITIES:
            raise BadInput(f"counts are from {counts.min()} to {counts.max()}, layers to {layers.max()}; not possible")
        return ScoredSample(self.levels, Scores(*counts[:, None].astype(np.int64)), float(weight), float(heaviest))
