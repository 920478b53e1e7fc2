"""Steps on rows against float64 or PyTorch: quantising, LayerNorm, products of any height, attention of one head."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from service.kernels.rows import (
    PANEL,
    activate,
    attend,
    multiply_bytes,
    multiply_floats,
    normalize_row,
    quantize_row,
    softmax,
    total,
)
from service.kernels.tiles import LANES, MAX_TILE_ROWS, load
from tests.kernels.kernels_ import MARK, Floats, byte_operands, multiply_bytes_in_tile

LENGTHS = (16, 32, 48, 384, 1536)
load()  # the kernels are linked to the tiles


def random_row(length: int, seed: int = 0, scale: float = 1.0, shift: float = 0.0) -> Floats:
    random = np.random.default_rng(seed)
    return (shift + scale * random.standard_t(3, size=length)).astype(np.float32)


# quantising


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1e-6, 0.0), (1e6, 0.0), (1.0, 100.0), (3.0, -1e4)])
def test_a_quantised_row_is_off_by_half_a_step_at_most(length: int, scale: float, shift: float) -> None:
    row, out = random_row(length, length, scale, shift), np.zeros(length, dtype=np.uint8)
    before = row.copy()
    step, low = quantize_row(row, out)
    assert np.array_equal(row, before)
    assert (out.min(), out.max()) == (0, 255) and low == row.min()
    assert step == pytest.approx((float(row.max()) - float(row.min())) / 255, rel=1e-6)
    assert np.all(np.abs(low + float(step) * out - row.astype(np.float64)) <= 0.5001 * step)


@pytest.mark.parametrize("value", [0.0, 3.25, -1e-30, 1e30])
def test_a_constant_row_keeps_its_value(value: float) -> None:
    out = np.full(32, 77, dtype=np.uint8)
    step, low = quantize_row(np.full(32, value, dtype=np.float32), out)
    assert np.all(step * out + low == np.float32(value))


@pytest.mark.parametrize("place", [0, 1, 15, 16, 31])
@pytest.mark.parametrize("value", [2.0, -5.0, 1e-20])
def test_a_single_value_among_zeros_keeps_its_value_and_its_place(place: int, value: float) -> None:
    row, out = np.zeros(32, dtype=np.float32), np.zeros(32, dtype=np.uint8)
    row[place] = value
    step, low = quantize_row(row, out)
    assert step * out + low == pytest.approx(row, rel=1e-6, abs=abs(value) * 1e-6)


# LayerNorm, sums, activations


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1e-4, 0.0), (5.0, 50.0)])
def test_a_normalised_row_is_that_of_float64(length: int, scale: float, shift: float) -> None:
    row, gain, bias = random_row(length, 1, scale, shift), random_row(length, 2), random_row(length, 3)
    exact = row.astype(np.float64)
    expected = (exact - exact.mean()) / np.sqrt(exact.var() + 1e-5) * gain + bias
    normalize_row(row, gain, bias, np.float32(1e-5))
    assert row == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_a_constant_row_normalised_is_the_bias() -> None:
    row, bias = np.full(48, 7.0, dtype=np.float32), random_row(48)
    normalize_row(row, random_row(48, 1), bias, np.float32(1e-12))
    assert np.array_equal(row, bias)


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 100, 1000])
def test_a_total_is_that_of_every_number(length: int) -> None:
    assert total(np.arange(1, length + 1, dtype=np.float32)) == length * (length + 1) / 2


def test_activations_are_gelu_relu_and_none() -> None:
    values = random_row(333)
    expected = {0: functional.gelu(torch.from_numpy(values)).numpy(), 1: np.maximum(values, 0), -1: values}
    for kind, activated in expected.items():
        found = values.copy()
        activate(found, kind)
        assert np.all(np.abs(found - activated) <= 2e-6 * np.abs(values)), kind


# matrix products


@pytest.mark.parametrize("columns", [16, 32, 48, 80])
def test_products_of_floats_of_any_height_are_those_of_numpy(columns: int) -> None:
    random = np.random.default_rng(columns)
    right = random.integers(-50, 50, (21, columns)).astype(np.float32)
    for rows in range(1, 2 * MAX_TILE_ROWS + 3):
        left = random.integers(-50, 50, (rows, 24)).astype(np.float32)
        out = np.full((rows + 1, columns + 16), MARK, dtype=np.float32)
        of_out = out.ctypes.data, out.strides[0]
        multiply_floats(left.ctypes.data, 4 * 24, right.ctypes.data, 4 * columns, 21, *of_out, rows, columns)
        assert np.array_equal(out[:rows, :columns], left[:, :21] @ right), rows
        assert np.all(out[rows:] == MARK) and np.all(out[:, columns:] == MARK)


def test_products_of_bytes_of_any_height_are_those_of_single_rows() -> None:
    for rows in range(1, 4 * MAX_TILE_ROWS + 2):
        left, right, of_rows, of_columns = byte_operands(rows, 8, seed=rows)
        out = np.full((rows + 1, PANEL + 16), MARK, dtype=np.float32)
        of_left = left.ctypes.data, left.strides[0], of_rows.ctypes.data, rows, 32
        of_right = right.ctypes.data, of_columns.ctypes.data, PANEL
        multiply_bytes(*of_left, *of_right, out.ctypes.data, out.strides[0])
        for row, (one, of_one) in enumerate(zip(left, of_rows, strict=True)):
            alone = multiply_bytes_in_tile(one[None], right, of_one[None], of_columns)[0, :PANEL]
            assert np.array_equal(out[row, :PANEL], alone), (rows, row)
        assert np.all(out[rows:] == MARK) and np.all(out[:, PANEL:] == MARK)


# attention


def attended(
    qkv: Floats,
    head: int,
    size: int,
    halted: int = 0,
    bias: Floats | None = None,
    pieces: NDArray[np.int64] | None = None,
) -> Floats:
    """One head's columns of `attend`, where the last rows are halted; all else must stay as it was.

    bias    (2 * farthest + 1,) by distance; None: nothing is added
    pieces  (rows,) which piece each row is
    """
    rows, hidden = len(qkv) - halted, qkv.shape[1] // 3
    moving, others = qkv[:rows].copy(), qkv[rows:].copy()
    others[:, :hidden] = np.nan  # their queries are not there
    values = np.full((rows + halted) * size + 1, MARK, dtype=np.float32)
    padded = -(-len(qkv) // LANES) * LANES
    keys = np.full(size * padded, np.nan, dtype=np.float32)
    scores = np.full(MAX_TILE_ROWS * (padded + 1) + 1, MARK, dtype=np.float32)
    out = np.full((rows + 1, hidden), MARK, dtype=np.float32)
    work = keys.ctypes.data, values.ctypes.data, scores.ctypes.data
    target = out.ctypes.data + 4 * head * size
    rows_of = moving.ctypes.data, others.ctypes.data, qkv.strides[0], rows, halted
    numbers = np.arange(len(qkv)) if pieces is None else pieces
    of_pieces = numbers[:rows].copy(), numbers[rows:].copy()
    distances = (0, 0) if bias is None else (bias.ctypes.data, len(bias) // 2)
    of_bias = *distances, *(part.ctypes.data for part in of_pieces)
    attend(*rows_of, head, size, hidden, *of_bias, *work, target, out.strides[0])
    assert scores[-1] == values[-1] == MARK, "the memory to work in was too small"
    found = out[:rows, head * size : (head + 1) * size].copy()
    out[:rows, head * size : (head + 1) * size] = MARK
    assert np.all(out == MARK)
    return found


def expected_attention(qkv: Floats, head: int, size: int, bias: NDArray[np.float64] | None = None) -> Floats:
    rows, heads = len(qkv), qkv.shape[1] // 3 // size
    parts = torch.from_numpy(qkv).double().view(rows, 3, heads, size)[:, :, head]
    mask = None if bias is None else torch.from_numpy(bias)
    context = functional.scaled_dot_product_attention(*(part[None] for part in parts.unbind(1)), attn_mask=mask)
    found: Floats = context[0].numpy()
    return found


@pytest.mark.parametrize(("heads", "size"), [(1, 16), (4, 16), (2, 32), (1, 48), (2, 64)])
def test_attention_is_that_of_pytorch_for_every_length(heads: int, size: int) -> None:
    for rows in (*range(1, 71), 95, 96, 97, 256):
        random = np.random.default_rng(rows)
        qkv = random.normal(size=(rows, 3 * heads * size)).astype(np.float32)
        head = rows % heads
        assert attended(qkv, head, size) == pytest.approx(expected_attention(qkv, head, size), abs=5e-6), rows


@pytest.mark.parametrize(("heads", "size"), [(1, 16), (2, 32)])
def test_halted_rows_are_keys_and_values_only(heads: int, size: int) -> None:
    for rows in (2, 3, 15, 16, 17, 40, 97):
        qkv = np.random.default_rng(rows).normal(size=(rows, 3 * heads * size)).astype(np.float32)
        head = rows % heads
        for halted in {1, rows // 2, rows - 1}:
            expected = expected_attention(qkv, head, size)[: rows - halted]
            assert attended(qkv, head, size, halted) == pytest.approx(expected, abs=5e-6), (rows, halted)


@pytest.mark.parametrize("halted", [0, 1, 7])
def test_a_bias_by_distance_is_added_before_the_softmax_wherever_rows_lie(halted: int) -> None:
    for rows in (8, 16, 17, 33, 64):
        random = np.random.default_rng(rows)
        qkv = random.normal(size=(rows, 96)).astype(np.float32)
        bias = random.normal(size=2 * 69 + 1).astype(np.float32) * 4
        halts = np.isin(np.arange(rows), random.choice(rows, halted, replace=False))
        pieces = np.concatenate([np.flatnonzero(~halts), np.flatnonzero(halts)])
        by_piece = bias[69 + np.arange(rows)[None] - np.arange(rows)[:, None]].astype(np.float64) / 4
        expected = expected_attention(qkv, 1, 16, by_piece[pieces][:, pieces])[: rows - halted]
        assert attended(qkv, 1, 16, halted, bias, pieces + 5) == pytest.approx(expected, abs=1e-5), rows


@pytest.mark.parametrize("spread", [3.0, 30.0, 1000.0])
def test_attention_holds_where_rows_lie_too_far_apart_for_a_common_shift(spread: float) -> None:
    for rows in (2, 3, 14, 15, 16, 17, 33, 64, 65):
        random = np.random.default_rng(rows)
        qkv = random.normal(size=(rows, 48)).astype(np.float32)
        qkv[:, 0] += 4.0 * random.choice([-1, 1], size=rows)  # queries that agree with all keys, or with none
        qkv[:, 16] = 8.0
        qkv[:, :16] *= spread
        scores = qkv[:, :16].astype(np.float64) @ qkv[:, 16:32].T / 4
        sure = scores.max(axis=1) - np.sort(scores, axis=1)[:, -2] > 1e-3 * spread  # float32 knows which key is first
        found, expected = attended(qkv, 0, 16), expected_attention(qkv, 0, 16)
        assert np.isfinite(found).all()
        assert found[sure] == pytest.approx(expected[sure], abs=2e-5 * spread), rows


def test_a_row_whose_first_score_is_its_lowest_is_not_lost() -> None:
    scores = np.array([[0.0] + [90.0] * 15, [-500.0] + [-400.0] * 15, [1000.0] + [0.0] * 15], dtype=np.float32)
    sums = np.zeros(3, dtype=np.float32)
    softmax(scores, 16, np.float32(1), sums)
    assert scores / sums[:, None] == pytest.approx(
        np.array([[0.0] + [1 / 15] * 15, [0.0] + [1 / 15] * 15, [1.0] + [0.0] * 15]), abs=1e-6
    )


@pytest.mark.parametrize("apart", [10.0, 39.0, 41.0, 60.0, 86.0, 100.0])
def test_a_softmax_is_right_however_far_apart_two_rows_lie(apart: float) -> None:
    scores = np.random.default_rng(0).normal(size=(2, 32)).astype(np.float32)
    scores[1] -= np.float32(apart)
    exact = np.exp(scores[:, :20].astype(np.float64) - scores[:, :20].max(axis=1, keepdims=True))
    sums = np.zeros(2, dtype=np.float32)
    softmax(scores, 20, np.float32(1), sums)
    assert scores[:, :20] / sums[:, None] == pytest.approx(exact / exact.sum(axis=1, keepdims=True), rel=2e-5)


def test_attention_over_equal_keys_is_the_mean_of_the_values() -> None:
    qkv = np.random.default_rng(0).normal(size=(37, 96)).astype(np.float32)
    qkv[:, 32:64] = qkv[0, 32:64]
    mean = qkv[:, 64:80].astype(np.float64).mean(axis=0)
    assert attended(qkv, 0, 16) == pytest.approx(np.tile(mean, (37, 1)), abs=1e-6)
