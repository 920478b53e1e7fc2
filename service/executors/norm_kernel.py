"""A residual and a norm on a GPU in one kernel, written in Triton. `triton_norm` launches it."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def add_norm(
    one,  # (rows, WIDTH) bfloat16
    other,  # (rows, WIDTH) bfloat16
    gain,  # (WIDTH,) bfloat16, read where WITH_GAIN
    bias,  # (WIDTH,) bfloat16, read where WITH_GAIN
    result,  # (rows, WIDTH) bfloat16
    epsilon,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    WITH_GAIN: tl.constexpr,
):
    """Add two rows, and bring the sum to mean 0 and variance 1; in float32, rounded once."""
    start = tl.program_id(0).to(tl.int64) * WIDTH
    column = tl.arange(0, BLOCK)
    is_real = column < WIDTH
    first = tl.load(one + start + column, mask=is_real, other=0.0).to(tl.float32)
    total = first + tl.load(other + start + column, mask=is_real, other=0.0).to(tl.float32)
    centred = tl.where(is_real, total - tl.sum(total, axis=0) / WIDTH, 0.0)
    normal = centred * tl.rsqrt(tl.sum(centred * centred, axis=0) / WIDTH + epsilon)
    if WITH_GAIN:
        normal *= tl.load(gain + column, mask=is_real, other=0.0).to(tl.float32)
        normal += tl.load(bias + column, mask=is_real, other=0.0).to(tl.float32)
    tl.store(result + start + column, normal.to(tl.bfloat16), mask=is_real)
