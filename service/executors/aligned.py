"""Arrays that begin on a cache line, as the kernels want them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.kernels.plan import ALIGNMENT


def aligned_empty(shape: tuple[int, ...], kind: Any) -> NDArray[Any]:
    """An array, not filled, that begins on a cache line."""
    size = math.prod(shape) * np.dtype(kind).itemsize
    memory = np.empty(size + ALIGNMENT, dtype=np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    found: NDArray[Any] = memory[start : start + size].view(kind).reshape(shape)
    return found


def aligned_copy(array: NDArray[Any]) -> NDArray[Any]:
    """The same array, where it begins on a cache line."""
    copy = aligned_empty(array.shape, array.dtype)
    copy[...] = array
    return copy
