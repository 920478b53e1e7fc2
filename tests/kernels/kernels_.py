"""How tests call compiled tiles and hand over memory. No test lives here.

A tile is called by its address, as numba's code does; what it must not touch is filled with a mark. `instructions` are
named as the setting names them; auto: those of this processor.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.kernels.instructions import find
from service.kernels.tiles import LANES, compile_tiles

Floats = NDArray[np.float32]
MARK = np.float32(-77777.0)  # no result of a test
ROOT = Path(__file__).resolve().parents[2]
_tiles = cache(compile_tiles)


def call_tile(instructions: str, name: str, *arguments: int) -> None:
    """Call a tile."""
    kind = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * len(arguments))
    kind(_tiles(find(instructions)).addresses[name])(*arguments)


def multiply_floats_in_tile(name: str, left: Floats, right: Floats, depth: int, instructions: str = "auto") -> Floats:
    """left (rows, at least depth) @ right (depth, at least the tile's columns); -> (rows + 1, more columns).

    What lies after rows and columns is marked.
    """
    rows = len(left)
    out = np.full((rows + 1, 3 * LANES), MARK, dtype=np.float32)
    strides = left.strides[0], right.strides[0], out.strides[0]
    of_left, of_right, of_out = zip((left.ctypes.data, right.ctypes.data, out.ctypes.data), strides, strict=True)
    call_tile(instructions, name, *of_left, *of_right, depth, *of_out, rows)
    return out


def multiply_bytes_in_tile(
    left: NDArray[np.uint8],
    right: NDArray[np.int8],
    of_rows: Floats,
    of_columns: Floats,
    instructions: str = "auto",
) -> Floats:
    """left (rows, 4 depth) by right (depth, 2 * LANES, 4), of_rows (rows, 2), of_columns (3, at least 2 * LANES)."""
    rows, depth = len(left), len(right)
    out = np.full((rows + 1, 3 * LANES), MARK, dtype=np.float32)
    call_tile(
        instructions,
        "byte_tile",
        *(left.ctypes.data, left.strides[0], right.ctypes.data, right.strides[0], depth),
        *(out.ctypes.data, out.strides[0], of_rows.ctypes.data, of_columns.ctypes.data, of_columns.strides[0], rows),
    )
    return out


def byte_operands(
    rows: int, depth: int, seed: int = 0, instructions: str = "auto"
) -> tuple[NDArray[np.uint8], NDArray[np.int8], Floats, Floats]:
    """Random ones for `multiply_bytes_in_tile`, the most extreme that the instructions take among them."""
    random = np.random.default_rng(seed)
    left = random.integers(0, 256, (rows, 4 * depth), dtype=np.uint8)
    right = random.integers(-127, 128, (depth, 2 * LANES, 4), dtype=np.int8)
    left[random.random(left.shape) < 0.3] = 255
    right[random.random(right.shape) < 0.3] = 127
    right[:, 1] = -127
    if find(instructions).adds_in_words:
        pairs = right.reshape(-1, 2)
        first, second = pairs.T.astype(np.int64)
        excess = (np.abs(first + second) - 128).clip(min=0) * (first * second > 0)
        pairs[:, 1] -= (np.sign(second) * excess).astype(np.int8)
    of_rows = random.normal(size=(rows, 2)).astype(np.float32)
    of_columns = random.normal(size=(3, 2 * LANES)).astype(np.float32)
    return left, right, of_rows, of_columns


def exact_products(left: NDArray[np.uint8], right: NDArray[np.int8]) -> NDArray[np.int64]:
    """(rows, 2 * LANES) sums of products of bytes."""
    matrix = right.astype(np.int64).transpose(1, 0, 2).reshape(2 * LANES, -1)
    found: NDArray[np.int64] = left.astype(np.int64) @ matrix.T
    return found


def run_module(module: str, *arguments: str) -> str:
    """What `python -m module` prints, in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
