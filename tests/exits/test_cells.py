"""Figures of cells are pooled sequence by sequence."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from service.exits.cells import Cells

CPU = torch.device("cpu")


def test_cells_belong_to_their_sequences_in_order() -> None:
    cells = Cells.of([2, 1, 3], CPU)
    assert cells.counts == tuple(cells.sizes.tolist()) == (3, 1, 6)
    assert cells.sequence.tolist() == [0, 0, 0, 1, 2, 2, 2, 2, 2, 2]


@pytest.mark.parametrize(
    ("pool", "expected"),
    [(Cells.sum, [-5.0, 9.0]), (Cells.mean, [-5.0, 3.0]), (Cells.max, [0.0, 6.0])],  # a largest one is never below 0
)
def test_cells_pool_within_each_sequence(pool: Callable[[Cells, torch.Tensor], torch.Tensor], expected: object) -> None:
    pooled = pool(Cells.of([1, 2], CPU), torch.tensor([-5.0, 1.0, 6.0, 2.0]))
    assert pooled.dtype == torch.float64 and pooled.tolist() == expected


def test_the_largest_cell_is_never_below_what_stands_for_none() -> None:
    assert Cells.of([1, 1], CPU).max(torch.tensor([-5.0, 1.0])).tolist() == [0.0, 1.0]


def test_sums_are_of_float64() -> None:
    assert Cells.of([2], CPU).sum(torch.tensor([2.0**24, 1.0, 1.0])).item() == 2**24 + 2
