"""Records of samples, made up: exits are right early where one feature is low. No test lives here."""

from __future__ import annotations

import numpy as np

from service.exits.policies.learned import FEATURES
from service.promise.records import SampleRecords

NUM_LAYERS = 4
SIGN = FEATURES.index("missed")  # the feature that tells


def records(count: int, seed: int = 0) -> SampleRecords:
    """Of two entities each; a third of the samples are wrong at the first exit, all are right later."""
    draw = np.random.default_rng(seed)
    is_hard = draw.random(count) < 1 / 3
    seen = draw.normal(size=(count, NUM_LAYERS - 1, len(FEATURES))).astype(np.float32)
    seen[:, :, SIGN] = 0.2 * seen[:, :, SIGN]
    seen[:, 0, SIGN] += is_hard
    errors = np.zeros((count, NUM_LAYERS), dtype=np.int64)
    errors[:, 0] = 2 * is_hard
    ones = np.ones(count, dtype=np.int64)
    return SampleRecords(seen, 2 - errors // 2, errors, 20 * ones, ones.astype(np.float32))
