"""Attention with a bias by distance as a kernel, compared with float64: on a GPU, else in Triton's interpreter.

Reported as not run where Triton is missing: it comes with PyTorch's build for CUDA.
"""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from service.executors.triton_attention import KEYS, QUERIES, attend
from service.models.packed import Ragged
from service.models.relative_bias import Bias
from tests.executors.cuda_ import StandIn
from tests.executors.interpreter_ import mended

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton: not run here")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LENGTHS = (5, QUERIES + 1, KEYS + 3)  # one tile, two of queries, and two of keys as well
FARTHEST = 99


@pytest.fixture(autouse=True)
def _interpreter() -> None:
    if DEVICE.type == "cpu":
        mended()


def drawn(lengths: tuple[int, ...], heads: int, width: int) -> tuple[Tensor, Tensor, Tensor, Bias]:
    """Query, key and value as one product leaves them, and a bias that matters."""
    generator = torch.Generator().manual_seed(0)
    parts = torch.randn(sum(lengths), 3, heads, width, generator=generator).bfloat16().to(DEVICE)
    table = 2 * torch.randn(heads, 2 * FARTHEST + 1, generator=generator).to(DEVICE)
    return *parts.unbind(1), Bias(table)


def ragged(*lengths: int) -> Ragged:
    return Ragged(lengths, DEVICE)


@pytest.mark.parametrize(("heads", "width"), [(2, 32), (1, 24)])
def test_the_kernel_finds_what_float64_does(heads: int, width: int) -> None:
    *parts, bias = drawn(LENGTHS, heads, width)
    rows = ragged(*LENGTHS)
    found = attend(*parts, rows, rows, bias)
    exact = StandIn().attend(*(part.double().cpu() for part in parts), rows, rows, Bias(bias.by_distance.cpu()))
    torch.testing.assert_close(found.double().cpu(), exact, rtol=0.02, atol=0.02)


def test_queries_of_some_rows_lie_where_they_are_told() -> None:
    *parts, bias = drawn(LENGTHS, 2, 32)
    rows = ragged(*LENGTHS)
    whole = attend(*parts, rows, rows, bias)
    places = [torch.tensor([0, 4]), torch.tensor([1, 2, QUERIES]), torch.arange(0, KEYS + 3, 2)]
    starts = (0, LENGTHS[0], LENGTHS[0] + LENGTHS[1])
    index = torch.cat([start + own for start, own in zip(starts, places, strict=True)]).to(DEVICE)
    some = Bias(bias.by_distance, torch.cat(places).to(DEVICE))
    found = attend(parts[0][index], *parts[1:], ragged(*map(len, places)), rows, some)
    assert torch.equal(found, whole[index])


def test_a_sequence_has_the_same_bits_alone_and_among_others_and_empty_ones_do_no_harm() -> None:
    *parts, bias = drawn(LENGTHS, 2, 32)
    together = attend(*parts, *[ragged(*LENGTHS, 0, 0)] * 2, bias)
    start = 0
    for length in LENGTHS:
        own = slice(start, start := start + length)
        alone = attend(*(part[own] for part in parts), *[ragged(length)] * 2, bias)
        assert torch.equal(together[own], alone), length
