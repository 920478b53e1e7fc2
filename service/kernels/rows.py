"""Steps on rows and tiles: quantising, matrix products of bytes, LayerNorm, attention of one head. One thread each.

Nothing here mixes rows of different sequences, and sums run in the same order whoever else is in the step: that is why
a sequence's answer does not depend on its batch mates.
"""

from __future__ import annotations

import math

import numpy as np
from numba import carray, njit

from service.kernels import maths
from service.kernels.rounding import num_blocks, rounded_up
from service.kernels.simd import floats_at, longs_at, lowest_and_highest
from service.kernels.tiles import LANES, MAX_TILE_ROWS, byte_tile, float_tile, wide_float_tile

kernel = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz", "arcp"})
# for a function that is called in one place: compiled as a part of its caller
inlined = njit(inline="always", error_model="numpy", fastmath={"contract", "nsz", "arcp"})
# for sums whose order the compiler may choose, which it does by the length of a row alone
kernel_of_sums = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz", "reassoc", "nnan"})

PANEL = 2 * LANES  # columns of a byte tile, and of a panel of packed weights
_VERY_LOW = np.float32(-1e30)
_FAR = np.float32(40)  # e**-40 is still far from vanishing
_ZERO, _ONE, _HALF = np.float32(0), np.float32(1), np.float32(0.5)
_STEPS = np.float32(255)


@kernel
def quantize_row(row, out):
    """Set out = round((row - low) / step), in 0 ... 255; return step, low, so that row is about step * out + low."""
    low, high = lowest_and_highest(row.ctypes.data, len(row))
    step = (high - low) / _STEPS
    inverse = _ONE / step if step > _ZERO else _ZERO
    for index in range(len(row)):
        out[index] = np.uint8(np.int32((row[index] - low) * inverse + _HALF))
    return step, low


@kernel
def add(values, others):
    """Add `others`, of which there may be more, to `values`."""
    for index in range(len(values)):
        values[index] += others[index]


@kernel
def copy(values, out):
    """Copy `values` to `out`."""
    for index in range(len(values)):
        out[index] = values[index]


@kernel
def keep_highest(values, highest):
    """Set each number of `highest` to the larger of it and that of `values`."""
    for index in range(len(values)):
        highest[index] = max(highest[index], values[index])


@kernel
def normalize_row(row, gain, bias, epsilon):
    """Set row = LayerNorm(row)."""
    standardize_row(row, epsilon)
    apply_gain(row, gain, bias, row)


@kernel
def standardize_row(row, epsilon):
    """Set row = LayerNorm(row) before its gain and bias."""
    mean = total(row) / np.float32(len(row))
    deviation = _ONE / np.float32(math.sqrt(squared_distances(row, mean) / np.float32(len(row)) + epsilon))
    for index in range(len(row)):
        row[index] = (row[index] - mean) * deviation


@kernel
def apply_gain(row, gain, bias, out):
    """Set out = row * gain + bias."""
    for index in range(len(row)):
        out[index] = row[index] * gain[index] + bias[index]


@kernel_of_sums
def squared_distances(row, centre):
    """Return the sum over a row of (number - centre) squared."""
    result = _ZERO
    for index in range(len(row)):
        distance = row[index] - centre
        result += distance * distance
    return result


@kernel
def multiply_bytes(x, x_stride, of_rows, rows, depth, panel, of_columns, columns, out, out_stride):
    """Compute PANEL columns of out = x @ weights + bias, for any number of rows. Addresses; strides in bytes.

    x           (rows, depth) bytes, whose rows may overlap, and of_rows (rows, 2) their steps and lows
    panel       packed (depth / 4, PANEL, 4) bytes of these columns
    of_columns  (3, columns) float32: from these columns on their steps, sums of the weights, and biases
    """
    tiles = num_blocks(rows, MAX_TILE_ROWS)
    for index in range(tiles):
        begin, end = rows * index // tiles, rows * (index + 1) // tiles
        byte_tile(
            x + begin * x_stride,
            x_stride,
            panel,
            4 * PANEL,
            depth // 4,
            out + begin * out_stride,
            out_stride,
            of_rows + 8 * begin,
            of_columns,
            4 * columns,
            end - begin,
        )


@kernel
def activate(values, kind):
    """Set values = GELU(values) if `kind` is 0, ReLU(values) if it is 1; -1 leaves them as they are."""
    if kind == 0:
        for index in range(len(values)):
            values[index] = maths.gelu(values[index])
    elif kind == 1:
        for index in range(len(values)):
            values[index] = max(values[index], _ZERO)


@kernel
def multiply_floats(left, left_stride, right, right_stride, depth, out, out_stride, rows, columns):
    """Compute out = left @ right, for any number of rows; columns a multiple of LANES. Addresses; strides in bytes."""
    for begin in range(0, rows, MAX_TILE_ROWS):
        height = min(MAX_TILE_ROWS, rows - begin)
        one, other = left + begin * left_stride, out + begin * out_stride
        column = 0
        while column + 2 * LANES <= columns:
            at = 4 * column
            wide_float_tile(one, left_stride, right + at, right_stride, depth, other + at, out_stride, height)
            column += 2 * LANES
        if column < columns:
            at = 4 * column
            float_tile(one, left_stride, right + at, right_stride, depth, other + at, out_stride, height)


@kernel
def transpose(source, out, width, offset):
    """Set out[c, offset + r] = source[r, c] for c < width."""
    for row in range(source.shape[0]):
        for column in range(width):
            out[column, offset + row] = source[row, column]


@kernel
def attend(
    qkv,
    halted,
    stride,
    rows,
    halted_rows,
    head,
    size,
    hidden,
    bias,
    farthest,
    pieces,
    halted_pieces,
    keys,
    values,
    scores,
    out,
    out_stride,
):
    """Compute one head of one sequence: softmax((Q K' + B) / sqrt(size)) V, Q of the rows that move, K and V of all.

    qkv    address of (rows, 3 * hidden) floats, queries, keys and values beside each other; `stride` bytes a row
    halted the same of the halted rows, whose queries are not there
    bias   address of the head's (2 * farthest + 1,) floats, for keys that lie `farthest` pieces before the query, ...,
           `farthest` after it, of which B is made; 0: B is 0
    pieces, halted_pieces  addresses of (rows,) and (halted_rows,) int64: which piece each row is, ascending
    keys   address of (size, padded) floats to work in, padded: all rows up to a multiple of LANES
    values address of (all rows, size) floats to work in, where some rows are halted
    scores address of (MAX_TILE_ROWS, padded + 1) floats to work in
    out    address of the head's (rows, size) part of the result; `out_stride` bytes a row
    """
    all_rows = rows + halted_rows
    padded = rounded_up(all_rows, LANES)
    query = qkv + 4 * head * size
    transposed = carray(floats_at(keys), (size, padded))
    transpose(carray(floats_at(query + 4 * hidden), (rows, stride // 4)), transposed, size, 0)
    value, value_stride = query + 8 * hidden, stride
    if halted_rows:
        other = halted + 4 * head * size
        transpose(carray(floats_at(other + 4 * hidden), (halted_rows, stride // 4)), transposed, size, rows)
        copied = carray(floats_at(values), (all_rows, size))
        copy_rows(carray(floats_at(value), (rows, stride // 4)), copied, 0)
        copy_rows(carray(floats_at(other + 8 * hidden), (halted_rows, stride // 4)), copied, rows)
        value, value_stride = values, 4 * size
    for column in range(size):
        for row in range(all_rows, padded):
            transposed[column, row] = _ZERO
    factor = _ONE / np.float32(math.sqrt(np.float32(size)))
    for begin in range(0, rows, MAX_TILE_ROWS):
        height = min(MAX_TILE_ROWS, rows - begin)
        multiply_floats(query + begin * stride, stride, keys, 4 * padded, size, scores, 4 * padded, height, padded)
        if bias:
            for row in range(begin, begin + height):
                of_row = scores + 4 * padded * (row - begin)
                add_bias(of_row, row, rows, halted_rows, bias, farthest, pieces, halted_pieces)
        sums = carray(floats_at(scores + 4 * MAX_TILE_ROWS * padded), (MAX_TILE_ROWS,))
        softmax(carray(floats_at(scores), (height, padded)), all_rows, factor, sums)
        target = out + begin * out_stride
        multiply_floats(scores, 4 * padded, value, value_stride, all_rows, target, out_stride, height, size)
        for row in range(height):
            scale(carray(floats_at(target + row * out_stride), (size,)), _ONE / sums[row])


@kernel
def add_bias(scores, row, rows, halted_rows, bias, farthest, pieces, halted_pieces):
    """Add to the scores of one query, all keys', what their distances say; see `attend`."""
    piece = carray(longs_at(pieces), (rows,))
    if not halted_rows:  # the keys lie side by side
        add(carray(floats_at(scores), (rows,)), carray(floats_at(bias + 4 * (farthest - row)), (rows,)))
        return
    table, found = carray(floats_at(bias), (2 * farthest + 1,)), carray(floats_at(scores), (rows + halted_rows,))
    halted_piece = carray(longs_at(halted_pieces), (halted_rows,))
    of_query = farthest - piece[row]
    for key in range(rows):
        found[key] += table[of_query + piece[key]]
    for key in range(halted_rows):
        found[rows + key] += table[of_query + halted_piece[key]]


@kernel
def copy_rows(source, out, offset):
    """Set out[offset + r] to the first numbers of source[r]."""
    for row in range(source.shape[0]):
        for column in range(out.shape[1]):
            out[offset + row, column] = source[row, column]


@kernel
def softmax(table, columns, factor, sums):
    """Make table / sums[:, None] the softmax of table * factor over the first `columns`; the others become about 0.

    All rows are shifted by their common largest number, unless one lies so far below it that it would vanish.
    """
    rows, padded = table.shape
    for row in range(rows):
        for column in range(columns, padded):
            table[row, column] = _VERY_LOW
    flat = carray(floats_at(table.ctypes.data), (rows * padded,))
    highest = lowest_and_highest(table.ctypes.data, rows * padded)[1]
    least = highest
    for row in range(rows):
        least = min(least, table[row, 0])  # a row's largest number is not below its first
    if (highest - least) * factor < _FAR:
        exponentials(flat, highest, factor)
    else:
        for row in range(rows):
            exponentials(table[row], lowest_and_highest(table[row].ctypes.data, padded)[1], factor)
    for row in range(rows):
        sums[row] = total(table[row])


@kernel
def exponentials(values, highest, factor):
    """Set values = e**((values - highest) * factor)."""
    for index in range(len(values)):
        values[index] = maths.exp((values[index] - highest) * factor)


@kernel
def scale(values, factor):
    """Multiply `values` by `factor`."""
    for index in range(len(values)):
        values[index] *= factor


@kernel_of_sums
def total(row):
    """Return the sum of a row."""
    result = _ZERO
    for index in range(len(row)):
        result += row[index]
    return result
