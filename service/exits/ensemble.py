"""The cross-layer ensemble (Sun et al. 2021; section 5.5.1 of VEE-BERT)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from service.exits.reading import Reading


def average(readings: Sequence[Reading]) -> Reading:
    """Return a reading of the mean of the exits' probabilities p_1, ..., p_m, as log-probabilities."""
    tables = torch.stack([reading.table for reading in readings])
    mean = (torch.logsumexp(tables, dim=0) - math.log(len(readings))).clamp_max(0.0)  # rounding lifts no score above 1
    return Reading(mean, readings[-1].num_words, nested=readings[-1].nested)
