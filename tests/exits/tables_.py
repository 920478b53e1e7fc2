"""Random span tables, readings and rules for the tests of this folder and of the engine. No test lives here."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from hypothesis import settings
from torch import Tensor

from service.exits.policies.learned import FEATURES, ExitRule
from service.exits.reading import Reading
from service.spans.table import num_cells

seeded = settings(derandomize=True, deadline=None, max_examples=40)


def random_tables(
    num_words: Sequence[int], num_layers: int, num_labels: int, seed: int, *, drift: float = 1.0
) -> list[Tensor]:
    """Per layer a packed (cells, num_labels) float32 table of log-probabilities, from flat to very sure.

    drift: how far layers are apart, from 1, unrelated, to 0, identical
    """
    generator = torch.Generator().manual_seed(seed)
    total = sum(map(num_cells, num_words))
    sureness = 10 * torch.rand(total, 1, generator=generator)
    common = torch.randn(total, num_labels, generator=generator)
    own = (torch.randn(total, num_labels, generator=generator) for _ in range(num_layers))
    return [torch.log_softmax(sureness * ((1 - drift) * common + drift * scores), dim=1) for scores in own]


def random_readings(
    num_words: Sequence[int], num_layers: int, num_labels: int, seed: int, *, drift: float = 1.0, nested: bool = True
) -> list[Reading]:
    """Per layer what its exit said."""
    tables = random_tables(num_words, num_layers, num_labels, seed, drift=drift)
    return [Reading(table, num_words, nested=nested) for table in tables]


def reading_of(probabilities: list[list[float]]) -> Reading:
    """Of one sequence: cell by cell the probability of every label."""
    words = {num_cells(count): count for count in range(1, 10)}[len(probabilities)]
    return Reading(torch.tensor(probabilities).log(), [words], nested=True)


def alone(readings: Sequence[Reading]) -> list[list[Reading]]:
    """Per sequence its own readings of all layers, on tables of their own."""
    rows = [reading.table.split([num_cells(words) for words in reading.num_words]) for reading in readings]
    return [
        [Reading(table.clone(), [words], nested=readings[0].nested) for table in of_layers]
        for words, *of_layers in zip(readings[0].num_words, *rows, strict=True)
    ]


def without_tables(readings: Sequence[Reading]) -> list[Reading]:
    """The same as an executor gives them that works out summary and candidates itself and keeps the table."""
    return [
        Reading(None, one.num_words, nested=one.nested, summary=one.summary, candidates=one.candidates)
        for one in readings
    ]


def random_rule(num_layers: int, seed: int = 0) -> ExitRule:
    """An exit rule of small random weights."""
    generator = torch.Generator().manual_seed(seed)
    weights, bias = torch.randn(2, num_layers - 1, len(FEATURES), generator=generator).double() / 4
    return ExitRule(tuple(map(tuple, weights.tolist())), tuple(bias[:, 0].tolist()))
