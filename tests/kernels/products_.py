"""A digest of what tiles and an executor compute. As a module: with a given instruction, in a process of its own."""

from __future__ import annotations

import hashlib
import sys

from service.kernels import tiles
from service.kernels.tiles import MAX_TILE_ROWS
from tests.executors.executors_ import fused, kernel_model, said_by_all_layers
from tests.kernels.kernels_ import byte_operands, multiply_bytes_in_tile
from tests.models_ import random_sequences


def all_products() -> str:
    """Of byte tiles of every height, and of every layer of an executor."""
    digest = hashlib.sha256()
    for rows in range(1, MAX_TILE_ROWS + 1):
        digest.update(multiply_bytes_in_tile(*byte_operands(rows, depth=9, seed=rows)).tobytes())
    with fused(kernel_model()) as executor:
        digest.update(repr(said_by_all_layers(executor, random_sequences((3, 17, 1)))).encode())
    return digest.hexdigest()


if __name__ == "__main__":
    tiles.byte_dot_instruction = lambda: sys.argv[1]
    print(all_products())
