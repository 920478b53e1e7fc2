"""Rounds whole numbers up, for kernels and for Python."""

from __future__ import annotations

from numba.extending import register_jitable


@register_jitable(error_model="numpy")
def num_blocks(count: int, size: int) -> int:
    """Return how many blocks of `size` things hold `count` things."""
    return (count + size - 1) // size


@register_jitable(error_model="numpy")
def rounded_up(count: int, size: int) -> int:
    """Round `count` up to a multiple of `size`."""
    return (count + size - 1) // size * size
