"""A model whose levels can be certified, and samples that certify or break them. No test lives here."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import torch

from service.engine.samples import SampleRun
from service.exits.operating_points import Calibration
from service.exits.policies.full_depth import FullDepth
from service.exits.policies.sentee import Sentee
from service.exits.reading import Reading
from service.levels.on_traffic import TrafficLevels
from tests.exits.calibrations_ import FULL_DEPTH_F1, point

NUM_LAYERS = 4
SAFE, MIDDLE, FASTEST = Sentee(tau=0.1), Sentee(tau=0.2), Sentee(tau=0.4)
LEVELS = (SAFE, MIDDLE, FASTEST)
PROMISING = Calibration(
    points=(
        point(FASTEST, 79.0, 1.312, 2.847, "fast"),
        point(MIDDLE, 82.0, 1.875, 2.113, "balanced"),
        point(SAFE, 82.9, 2.618, 1.512, "accurate"),
    ),
    others=(point(FullDepth(), FULL_DEPTH_F1, 4.0, 1.0),),
)
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
SURE_AT_FIRST, SURE_AT_SECOND, UNSURE = (0.05, 0.05), (0.15, 0.05), (0.3, 0.05)
"""Entropies of the first exit and of the later ones: all levels leave at layer 1; all but SAFE; FASTEST alone."""


def traffic_levels() -> TrafficLevels:
    """Of LEVELS, without samples."""
    return TrafficLevels(LEVELS, LEVELS, NUM_LAYERS, now=lambda: NOON)


def reading(label: int, entropy: float) -> Reading:
    """Of one word, which is an entity of a label; with such an entropy of its one cell, of 1 + 3 labels."""
    table = torch.full((1, 4), np.log(1e-9), dtype=torch.float32)
    table[0, label] = 0.0
    summary = np.array([[entropy, entropy, 1.0, 0.0, 0.0, 0.0]])
    return Reading(table, [1], nested=False, summary=summary)


def sample_run(labels: Sequence[int], entropies: tuple[float, float] = SURE_AT_FIRST, weight: float = 1.0) -> SampleRun:
    """Of one word: what every exit takes it for, and how sure the first and the later exits are."""
    sure = (entropies[0], *[entropies[1]] * (NUM_LAYERS - 1))
    readings = [reading(label, entropy) for label, entropy in zip(labels, sure, strict=True)]
    return SampleRun(readings, (0, 1), 3, weight, weight)


def agreeing() -> SampleRun:
    """All exits answer the same."""
    return sample_run([1, 1, 1, 1])


def wrong_if_fastest() -> SampleRun:
    """Only the first exit answers something else, and only FASTEST leaves there."""
    return sample_run([2, 1, 1, 1], UNSURE)
