"""Replays a policy over readings of every exit: the same `evidence` and `decide` as serving, without running the model.

The readings are of sequences that were run to full depth. Offline replay (traces) and online replay (samples of the
traffic) both call these functions, so neither can drift apart from serving.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from service.exits.parameters import Evidence, Evidences
from service.exits.policy import ExitPolicy
from service.exits.reading import Reading
from service.spans.types import IntArray


def evidences_of(policy: ExitPolicy, readings: Sequence[Reading]) -> list[list[Evidence]]:
    """Return [layer - 1][sequence] what `policy` sees of every sequence after every layer.

    readings: one of every exit, each of the same sequences. Evidence does not depend on thresholds.
    """
    evidences: list[list[Evidence]] = []
    seen: list[Reading] = []
    for layer, reading in enumerate(readings, 1):
        if policy.needs_exit(layer, len(readings)):
            seen.append(reading)
            evidences.append([tuple(row) for row in policy.evidence(seen).tolist()])
        else:
            evidences.append([()] * len(reading.num_words))
    return evidences


def predictions_of(policy: ExitPolicy, readings: Sequence[Reading]) -> list[Reading]:
    """Return [layer - 1] the reading that is decoded for sequences that leave after each layer.

    Where the policy lets no sequence leave, it is the exit's own.
    """
    predictions: list[Reading] = []
    seen: list[Reading] = []
    for layer, reading in enumerate(readings, 1):
        if policy.needs_exit(layer, len(readings)):
            seen.append(reading)
            predictions.append(policy.prediction(seen))
        else:
            predictions.append(reading)
    return predictions


def decide_all(policy: ExitPolicy, evidences: Evidences) -> IntArray:
    """Return the exit layer of every sequence, (sequences,), for evidences [layer - 1][sequence]."""
    num_layers = len(evidences)
    exit_layers = []
    for history in zip(*evidences, strict=True):
        layer = 1
        while policy.decide(history[:layer], num_layers) is None:
            layer += 1
        exit_layers.append(layer)
    return np.array(exit_layers, dtype=np.int64)
