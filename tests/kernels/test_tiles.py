"""Register tiles against numpy: exact where numbers are integers, for every height, and within their bounds."""

from __future__ import annotations

import platform

import numpy as np
import pytest

from service.errors import BadInput
from service.executors import fused as fused_module
from service.executors.quantized import quantize
from service.kernels.instructions import ALL, features_here, find
from service.kernels.tiles import LANES, MAX_TILE_ROWS, load
from tests.kernels.kernels_ import (
    MARK,
    byte_operands,
    exact_products,
    multiply_bytes_in_tile,
    multiply_floats_in_tile,
    run_module,
)
from tests.kernels.products_ import together_and_alone

COLUMNS = {"float_tile": LANES, "wide_float_tile": 2 * LANES}
every_height = pytest.mark.parametrize("rows", range(1, MAX_TILE_ROWS + 1))
every_float_tile = pytest.mark.parametrize("name", COLUMNS)


@pytest.fixture(params=[one.name for one in ALL if not one.machines or platform.machine() in one.machines])
def instructions(request: pytest.FixtureRequest) -> str:
    """Each way to multiply bytes of this kind of machine, where this processor has it."""
    name: str = request.param
    features = features_here()
    if missing := [feature for one in ALL if one.name == name for feature in one.needs if not features.get(feature)]:
        pytest.skip(f"this processor lacks {missing}, so tiles of {name} are not tested here")
    return name


@every_height
def test_products_of_bytes_are_the_exact_integers(rows: int, instructions: str) -> None:
    for depth in (1, 2, 7, 33, 96):
        left, right, of_rows, of_columns = byte_operands(rows, depth, seed=rows, instructions=instructions)
        of_rows[:], of_columns[:] = (1, 0), np.array([1, 0, 0])[:, None]
        found = multiply_bytes_in_tile(left, right, of_rows, of_columns, instructions)[:rows, : 2 * LANES]
        assert np.array_equal(found, exact_products(left, right).astype(np.float32)), depth


@pytest.mark.parametrize("sign", [1, -1])
def test_a_sum_of_the_largest_products_neither_wraps_nor_saturates(sign: int, instructions: str) -> None:
    depth = 1024  # as in a layer four times as wide as any that ships
    left = np.full((3, 4 * depth), 255, dtype=np.uint8)
    weights = (127, 1, 64, 64) if find(instructions).adds_in_words else (127, 127, 127, 127)
    right = np.full((depth, 2 * LANES, 4), [sign * weight for weight in weights], dtype=np.int8)
    scales = np.array([[1, 0]] * 3, dtype=np.float32), np.array([[1], [0], [0]] * np.ones(2 * LANES), dtype=np.float32)
    found = multiply_bytes_in_tile(left, right, *scales, instructions)[:3, : 2 * LANES]
    assert np.all(found == np.float32(sign * 255 * sum(weights) * depth))


@every_height
def test_tiles_of_all_instructions_give_the_same_bits(rows: int, instructions: str) -> None:
    operands = byte_operands(rows, 9, seed=rows, instructions="avx2" if load().adds_in_words else instructions)
    assert np.array_equal(multiply_bytes_in_tile(*operands, instructions), multiply_bytes_in_tile(*operands))
    random = np.random.default_rng(rows)
    left = random.normal(size=(rows, 31)).astype(np.float32)
    right = random.normal(size=(31, 2 * LANES)).astype(np.float32)
    for name in COLUMNS:
        found = multiply_floats_in_tile(name, left, right, 31, instructions)
        assert np.array_equal(found, multiply_floats_in_tile(name, left, right, 31))


@every_height
def test_sums_become_floats_by_the_steps_lows_sums_and_biases_of_their_row_and_column(rows: int) -> None:
    left, right, of_rows, of_columns = byte_operands(rows, 5, seed=rows)
    found = multiply_bytes_in_tile(left, right, of_rows, of_columns)[:rows, : 2 * LANES]
    (steps, lows), (column_steps, sums, biases) = of_rows.astype(np.float64).T, of_columns.astype(np.float64)
    product = exact_products(left, right) * np.outer(steps, column_steps)
    expected = product + (np.outer(lows, sums) + biases)
    scale = np.abs(product) + np.abs(np.outer(lows, sums)) + np.abs(biases)
    assert np.all(np.abs(found - expected) <= 3e-7 * scale)


def test_rows_of_bytes_may_overlap_and_columns_be_a_part_of_more() -> None:
    left, right, of_rows, of_columns = byte_operands(6, 3)
    flat = np.ascontiguousarray(left.ravel()[:32])
    overlapping = np.lib.stride_tricks.as_strided(flat, (6, 12), (4, 1))
    wide = np.repeat(of_columns, 2, axis=1)
    wide[:, : 2 * LANES] = of_columns
    found = multiply_bytes_in_tile(overlapping, right, of_rows, wide[:, : 2 * LANES])
    assert np.array_equal(found, multiply_bytes_in_tile(overlapping.copy(), right, of_rows, of_columns))


@every_height
def test_a_tile_of_bytes_writes_only_its_own_rows_and_columns(rows: int, instructions: str) -> None:
    found = multiply_bytes_in_tile(*byte_operands(rows, 2, instructions=instructions), instructions)
    assert np.all(found[rows:] == MARK) and np.all(found[:, 2 * LANES :] == MARK)
    assert not np.any(found[:rows, : 2 * LANES] == MARK)


@every_float_tile
@every_height
@pytest.mark.parametrize("depth", [1, 2, 13, 64])
def test_products_of_floats_are_those_of_numpy(name: str, rows: int, depth: int) -> None:
    random = np.random.default_rng(rows)
    left = random.normal(size=(rows, depth + 3)).astype(np.float32)  # of wider rows, which it does not read on
    right = random.normal(size=(depth, 2 * LANES + 5)).astype(np.float32)
    left[:, depth:] = np.nan
    found = multiply_floats_in_tile(name, left, right, depth)[:rows, : COLUMNS[name]]
    one, other = left[:, :depth].astype(np.float64), right[:, : COLUMNS[name]].astype(np.float64)
    assert np.all(np.abs(found - one @ other) <= 1e-6 * (np.abs(one) @ np.abs(other)))


@every_float_tile
@every_height
def test_products_of_small_integers_are_exact_and_nothing_beyond_them_is_written(name: str, rows: int) -> None:
    random = np.random.default_rng(rows)
    left = random.integers(-99, 100, (rows, 31)).astype(np.float32)
    right = random.integers(-99, 100, (31, 2 * LANES)).astype(np.float32)
    found = multiply_floats_in_tile(name, left, right, 31)
    columns = COLUMNS[name]
    assert np.array_equal(found[:rows, :columns], left @ right[:, :columns])
    assert np.all(found[rows:] == MARK) and np.all(found[:, columns:] == MARK)


@every_float_tile
def test_a_row_of_floats_is_the_same_in_a_tile_of_any_height(name: str) -> None:
    random = np.random.default_rng(0)
    left = random.normal(size=(MAX_TILE_ROWS, 50)).astype(np.float32)
    right = random.normal(size=(50, 2 * LANES)).astype(np.float32)
    whole = multiply_floats_in_tile(name, left, right, 50)
    for rows in range(1, MAX_TILE_ROWS):
        assert np.array_equal(multiply_floats_in_tile(name, left[:rows], right, 50)[:rows], whole[:rows]), rows


def test_an_executor_by_avx2_says_of_every_sequence_what_others_say_with_its_weights_whoever_is_beside_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not all(features_here().get(feature) for feature in ("avx2", "fma")):
        pytest.skip("this processor has no AVX2, so an executor that uses it is not tested here")
    monkeypatch.setattr(fused_module, "quantize", lambda model, **_: quantize(model, adds_in_words=True))
    found = run_module("tests.kernels.products_", "avx2")
    together, alone = found.splitlines()
    assert together == alone
    assert found == together_and_alone()


def test_a_process_uses_one_kind_of_instructions() -> None:
    others = next(one for one in ALL if one != load())
    assert load(load()) == load()
    with pytest.raises(BadInput, match=f"instructions {others.name} .*kernels use {load().name}.*another process"):
        load(others)
