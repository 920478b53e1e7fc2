"""The stages of an encoder layer, from the states before it to the states after it. Those of an exit are in `words`.

Every stage takes (block, step, layer, scratch): the number of its block, records of STEP and of LAYER, and the address
of memory to work in. Rows that move come first; for halted rows only keys and values are computed.
"""

from __future__ import annotations

import numpy as np
from numba import carray

from service.kernels.layout import PANELS_OF_A_BLOCK, ROWS_OF_A_BLOCK
from service.kernels.rounding import num_blocks, rounded_up
from service.kernels.rows import (
    PANEL,
    activate,
    add,
    apply_gain,
    attend,
    copy,
    inlined,
    kernel,
    multiply_bytes,
    normalize_row,
    quantize_row,
    standardize_row,
)
from service.kernels.simd import bytes_at, floats_at, longs_at
from service.kernels.tiles import LANES

_NO_ACTIVATION = -1

# how many blocks a stage has


@inlined
def blocks_of_rows(step):
    """Return the number of blocks of all rows."""
    return num_blocks(step.rows, ROWS_OF_A_BLOCK)


@inlined
def blocks_of_moving_rows(step):
    """Return the number of blocks of the rows that move."""
    return num_blocks(step.moving_rows, ROWS_OF_A_BLOCK)


@inlined
def blocks_of_qkv(step):
    """Return the number of blocks of the columns of queries, keys and values."""
    return num_blocks(3 * step.hidden, PANEL * PANELS_OF_A_BLOCK)


@inlined
def blocks_of_heads(step):
    """Return the number of blocks of attention: one for each head of each sequence."""
    return step.sequences * step.heads


@inlined
def blocks_of_hidden(step):
    """Return the number of blocks of the columns of a state."""
    return num_blocks(step.hidden, PANEL * PANELS_OF_A_BLOCK)


@inlined
def blocks_of_intermediate(step):
    """Return the number of blocks of the columns of an expanded state."""
    return num_blocks(step.intermediate, PANEL * PANELS_OF_A_BLOCK)


# the stages, in their order


@kernel
def load_rows(block, step, layer, scratch):
    """Write to `state` what the layer reads of some rows, embeddings or states before it, and to `bytes` its bytes."""
    size = step.hidden
    state = carray(floats_at(step.state), (step.rows, size))
    first = block * ROWS_OF_A_BLOCK
    for row in range(first, min(first + ROWS_OF_A_BLOCK, step.rows)):
        if step.layer == 0:
            _embed(row, step, state[row])
        else:
            gain = carray(floats_at(layer.input_norm_gain), (size,))
            bias = carray(floats_at(layer.input_norm_bias), (size,))
            apply_gain(carray(floats_at(_kept(row, step, step.inputs)), (size,)), gain, bias, state[row])
        _quantize(row, step, state[row], step.bytes)


@inlined
def project_qkv(block, step, layer, scratch):
    """Compute some columns of `qkv`: queries of the rows that move, keys and values of all rows."""
    size = step.hidden
    _multiply(block, step, step.bytes, size, layer.qkv_weight, layer.qkv_columns, step.qkv, 3 * size, size)


@kernel
def attend_head(block, step, layer, scratch):
    """Compute one head of one sequence, from `qkv` to its columns of `context`."""
    sequence, head = block // step.heads, block % step.heads
    starts = carray(longs_at(step.moving_starts), (step.sequences + 1,))
    start, rows = starts[sequence], starts[sequence + 1] - starts[sequence]
    halted_starts = carray(longs_at(step.halted_starts), (step.sequences + 1,))
    halted, halted_rows = halted_starts[sequence], halted_starts[sequence + 1] - halted_starts[sequence]
    size, stride = step.hidden // step.heads, 12 * step.hidden
    width = rounded_up(rows + halted_rows, LANES)
    target = step.context + 4 * (start * step.hidden + head * size)
    bias = step.relative_bias + 4 * head * (2 * step.farthest + 1) if step.relative_bias else 0
    attend(
        step.qkv + start * stride,
        step.qkv + halted * stride,
        stride,
        rows,
        halted_rows,
        head,
        size,
        step.hidden,
        bias,
        step.farthest,
        step.piece_of_row + 8 * start,
        step.piece_of_row + 8 * halted,
        scratch,
        scratch + 4 * size * width,
        scratch + 8 * size * width,
        target,
        4 * step.hidden,
    )


@inlined
def quantize_context(block, step, layer, scratch):
    """Write the bytes of some rows of `context`."""
    _quantize_rows(block, step, step.context, step.hidden, step.bytes, _NO_ACTIVATION)


@inlined
def project_context(block, step, layer, scratch):
    """Write some columns of the output of attention to `sum`."""
    size = step.hidden
    _multiply(block, step, step.bytes, size, layer.attended_weight, layer.attended_columns, step.sum, size, size)


@kernel
def add_attended(block, step, layer, scratch):
    """Compute state = LayerNorm(state + sum) for some rows, and write their bytes."""
    size = step.hidden
    gains = carray(floats_at(layer.attention_norm_gain), (size,))
    biases = carray(floats_at(layer.attention_norm_bias), (size,))
    first = block * ROWS_OF_A_BLOCK
    for row in range(first, min(first + ROWS_OF_A_BLOCK, step.moving_rows)):
        state = carray(floats_at(step.state + 4 * size * row), (size,))
        add(state, carray(floats_at(step.sum + 4 * size * row), (size,)))
        normalize_row(state, gains, biases, np.float32(step.epsilon))
        _quantize(row, step, state, step.bytes)


@inlined
def expand(block, step, layer, scratch):
    """Compute some columns of `expanded`, before the activation."""
    wide = step.intermediate
    _multiply(block, step, step.bytes, step.hidden, layer.up_weight, layer.up_columns, step.expanded, wide, wide)


@inlined
def activate_expanded(block, step, layer, scratch):
    """Apply the activation to some rows of `expanded`, and write their bytes."""
    _quantize_rows(block, step, step.expanded, step.intermediate, step.wide_bytes, step.activation)


@inlined
def contract(block, step, layer, scratch):
    """Write some columns of what `expanded` adds to the state to `sum`."""
    size, wide = step.hidden, step.intermediate
    _multiply(block, step, step.wide_bytes, wide, layer.down_weight, layer.down_columns, step.sum, size, size)


@kernel
def store_rows(block, step, layer, scratch):
    """Write the states of some rows after the layer: LayerNorm(state + sum) before its gain and bias, or as before.

    For an exit, `state` becomes what it reads of them, and `bytes` its bytes.
    """
    size = step.hidden
    gain, bias = carray(floats_at(layer.exit_norm_gain), (size,)), carray(floats_at(layer.exit_norm_bias), (size,))
    first = block * ROWS_OF_A_BLOCK
    for row in range(first, min(first + ROWS_OF_A_BLOCK, step.rows)):
        state = carray(floats_at(step.state + 4 * size * row), (size,))
        kept = carray(floats_at(_kept(row, step, step.outputs)), (size,))
        if row < step.moving_rows:
            add(state, carray(floats_at(step.sum + 4 * size * row), (size,)))
            standardize_row(state, np.float32(step.epsilon))
            copy(state, kept)
        else:
            copy(carray(floats_at(_kept(row, step, step.inputs)), (size,)), kept)
        if step.with_exit:
            apply_gain(kept, gain, bias, state)
            _quantize(row, step, state, step.bytes)


# what they are made of


@kernel
def _embed(row, step, out):
    """Write the embedding of a row's piece."""
    size = step.hidden
    piece = carray(longs_at(step.piece_ids), (step.rows,))[row]
    position = carray(longs_at(step.position_ids), (step.rows,))[row]
    pieces = carray(floats_at(step.pieces + 4 * size * piece), (size,))
    positions = carray(floats_at(step.positions + 4 * size * position), (size,))
    token_type = carray(floats_at(step.token_type), (size,))
    for index in range(size):
        out[index] = pieces[index] + positions[index] + token_type[index]
    if step.shapes:
        shape = carray(longs_at(step.shape_ids), (step.rows,))[row]
        shapes = carray(floats_at(step.shapes + 4 * size * shape), (size,))
        for index in range(size):
            out[index] += shapes[index]
    gain, bias = carray(floats_at(step.embedding_gain), (size,)), carray(floats_at(step.embedding_bias), (size,))
    normalize_row(out, gain, bias, np.float32(step.epsilon))


@kernel
def _kept(row, step, states):
    """Return the address of a row's state in the memory of its sequence; states: addresses of all sequences' memory."""
    starts = carray(longs_at(step.row_starts), (step.sequences + 1,))
    piece = carray(longs_at(step.piece_of_row), (step.rows,))[row]
    sequence = _sequence_of(piece, starts, step.sequences)
    return carray(longs_at(states), (step.sequences,))[sequence] + 4 * step.hidden * (piece - starts[sequence])


@kernel
def _sequence_of(piece, starts, sequences):
    """Return the sequence that a piece belongs to."""
    low, high = 0, sequences
    while high - low > 1:
        middle = (low + high) // 2
        if starts[middle] <= piece:
            low = middle
        else:
            high = middle
    return low


@kernel
def _quantize_rows(block, step, source, size, target, activation):
    """Write the bytes of some rows that move, after their activation."""
    first = block * ROWS_OF_A_BLOCK
    for row in range(first, min(first + ROWS_OF_A_BLOCK, step.moving_rows)):
        values = carray(floats_at(source + 4 * size * row), (size,))
        activate(values, activation)
        _quantize(row, step, values, target)


@kernel
def _quantize(row, step, values, target):
    """Write the bytes of a row to its place in `target`, and their step and low to `of_rows`."""
    size = len(values)
    of_row = carray(floats_at(step.of_rows + 8 * row), (2,))
    of_row[0], of_row[1] = quantize_row(values, carray(bytes_at(target + row * size), (size,)))


@kernel
def _multiply(block, step, x, depth, weight, of_columns, out, columns, of_moving):
    """Compute some panels of out = x @ weight + bias.

    The first `of_moving` columns are computed for rows that move, the others for all rows.
    """
    first = block * PANELS_OF_A_BLOCK * PANEL
    for column in range(first, min(first + PANELS_OF_A_BLOCK * PANEL, columns), PANEL):
        multiply_bytes(
            x,
            depth,
            step.of_rows,
            step.moving_rows if column < of_moving else step.rows,
            depth,
            weight + column * depth,
            of_columns + 4 * column,
            columns,
            out + 4 * column,
            4 * columns,
        )
