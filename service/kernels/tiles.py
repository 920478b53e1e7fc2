"""Register tiles: matrix products whose sums stay in registers from the first to the last step, made with LLVM.

Their loops are written in LLVM's language, because no loop in Python is compiled to the processor's products of bytes.
`load` compiles them once a process, in a fraction of a second; numba's code is linked to them by name.

A tile has so many rows and columns whatever the processor is. It is made of blocks, each of which has as many sums as
the processor has registers for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types

from service.errors import BadInput
from service.kernels import dots
from service.kernels.instructions import Instructions, find
from service.kernels.rounding import num_blocks

LANES = 16  # columns come in multiples of so many
MAX_TILE_ROWS = 14

_i32, _i64 = ir.IntType(32), ir.IntType(64)

float_tile = types.ExternalFunction("float_tile", types.void(*[types.int64] * 8))
"""(left, left_stride, right, right_stride, depth, out, out_stride, rows) -> None

out[i, :] = sum over k < depth of left[i, k] * right[k, :], for LANES columns and i < rows, 1 <= rows <= MAX_TILE_ROWS,
depth >= 1. All float32; addresses, and strides in bytes from row to row.
"""

wide_float_tile = types.ExternalFunction("wide_float_tile", types.void(*[types.int64] * 8))
"""`float_tile` of 2 * LANES columns."""

byte_tile = types.ExternalFunction("byte_tile", types.void(*[types.int64] * 11))
"""(left, left_stride, right, right_stride, depth, out, out_stride, of_rows, of_columns, columns_stride, rows) -> None

A product of bytes, as float32, of 2 * LANES columns: left (rows, 4 * depth) unsigned, right (depth, 2 * LANES, 4)
signed. Row i of of_rows holds its step and its low, of_columns three rows: steps, sums and biases of the columns; and
out = product * step of row * step of column + (low of row * sum of column + bias of column).

With instructions that add in words, two neighbours in `right` of one sign, at places 0 and 1 or 2 and 3 of the four,
may not exceed 128 together.
"""


class _Blocks(NamedTuple):
    """Says how tiles are made with some instructions: 32-bit numbers of a register, rows of a block, the step of bytes.

    A block has two registers of columns, and so of sums for each row. Beside them it needs two for the columns
    themselves and one for a row's number; products of bytes that take several instructions need more.

    Where a step is wrong by what depends on the columns alone, a block has a row of zeros besides: its sums are what
    all others are wrong by.
    """

    lanes: int
    float_rows: int
    byte_rows: int
    step: dots.Step
    has_row_of_zeros: bool = False


_BLOCKS = {
    "avx512_vnni": _Blocks(16, 14, 14, dots.vnni_512),  # 32 registers
    "avx_vnni": _Blocks(8, 6, 6, dots.vnni_256),  # 16 registers
    "avx2": _Blocks(8, 6, 5, dots.avx2_pairs),
    "avx2_words": _Blocks(8, 6, 4, dots.avx2_words),
    "neon_i8mm": _Blocks(4, 12, 12, dots.neon_i8mm),  # 32 registers, of which LLVM loads some early
    "neon_dotprod": _Blocks(4, 12, 10, dots.neon_dotprod, has_row_of_zeros=True),
    "portable": _Blocks(4, 6, 4, dots.portable),
}


@dataclass(frozen=True, slots=True, eq=False)
class Tiles:
    """Compiled tiles.

    addresses  of the functions, by name
    engine     owns their code
    """

    instructions: Instructions
    addresses: dict[str, int]
    engine: llvm.ExecutionEngine


_loaded: list[Tiles] = []  # none or one: names of functions are shared by the whole process


def load(instructions: Instructions | None = None) -> Instructions:
    """Make tiles known to all code that is linked later; return the instructions that they use.

    instructions: None for those that this process has loaded, or else the fastest of the processor.
    Raises BadInput if the process has loaded others.
    """
    if not _loaded:
        _loaded.append(compile_tiles(instructions or find()))
        for name, address in _loaded[0].addresses.items():
            llvm.add_symbol(name, address)
    found = _loaded[0].instructions
    if instructions not in (None, found):
        raise BadInput(
            f"instructions {instructions.name} were asked for in a process whose kernels use {found.name}; "
            "start another process for them"
        )
    return found


def compile_tiles(instructions: Instructions) -> Tiles:
    """Compile the tiles for some instructions that this processor has."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    triple = llvm.get_process_triple()
    target = llvm.Target.from_triple(triple)
    machine = target.create_target_machine(llvm.get_host_cpu_name(), instructions.target_features, opt=2)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(source(instructions, triple)), machine)
    engine.finalize_object()
    names = [kind.name for kind in _kinds(instructions)]
    return Tiles(instructions, {name: engine.get_function_address(name) for name in names}, engine)


def source(instructions: Instructions, triple: str) -> str:
    """Return tiles in LLVM's language; triple: what LLVM calls the kind of machine that they are for."""
    module = ir.Module(name="tiles")
    module.triple = triple
    for kind in _kinds(instructions):
        _define(module, kind)
    return str(module)


@dataclass(frozen=True, slots=True)
class _Kind:
    """Describes a kind of tile.

    columns  how many it has
    vector   the sums of a register
    rows     the most of a block
    step     (builder, sums, left value in every lane, right columns) -> sums
    """

    name: str
    columns: int
    vector: ir.VectorType
    rows: int
    step: dots.Step
    is_quantized: bool = False
    has_row_of_zeros: bool = False

    @property
    def arguments(self) -> list[ir.Type]:
        """Types of all arguments but the number of rows."""
        return [_i64] * (10 if self.is_quantized else 7)

    @property
    def lanes(self) -> int:
        """Columns of a register."""
        lanes: int = self.vector.count
        return lanes

    @property
    def columns_of_a_block(self) -> int:
        """Columns of a block."""
        return min(2 * self.lanes, self.columns)


def _kinds(instructions: Instructions) -> list[_Kind]:
    blocks = _BLOCKS[instructions.name]
    floats, ints = (ir.VectorType(kind, blocks.lanes) for kind in (ir.FloatType(), _i32))
    of_bytes = _Kind("byte_tile", 2 * LANES, ints, blocks.byte_rows, blocks.step, True, blocks.has_row_of_zeros)
    return [
        _Kind("float_tile", LANES, floats, blocks.float_rows, dots.fused_multiply_add),
        _Kind("wide_float_tile", 2 * LANES, floats, blocks.float_rows, dots.fused_multiply_add),
        of_bytes,
    ]


def _define(module: ir.Module, kind: _Kind) -> None:
    """Define the function that calls the blocks of as many rows as its last argument says."""
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [*kind.arguments, _i64]), kind.name)
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    done = function.append_basic_block("done")
    *passed, wanted = function.args
    switch = builder.switch(wanted, done)
    for rows in range(1, MAX_TILE_ROWS + 1):
        block = function.append_basic_block(f"rows_{rows}")
        switch.add_case(_constant(rows), block)
        builder.position_at_end(block)
        for column in range(0, kind.columns, kind.columns_of_a_block):
            for first, end in _parts(rows, num_blocks(rows, kind.rows)):
                builder.call(_block(module, kind, end - first), _moved(builder, passed, first, column))
        builder.branch(done)
    builder.position_at_end(done)
    builder.ret_void()


def _parts(rows: int, count: int) -> list[tuple[int, int]]:
    """Return the first row and the end of each of `count` blocks of nearly the same height."""
    return [(rows * index // count, rows * (index + 1) // count) for index in range(count)]


def _moved(builder: ir.IRBuilder, passed: list[ir.Value], row: int, column: int) -> list[ir.Value]:
    """Return a tile's arguments for its block that begins at a row and a column."""
    left, left_stride, right, right_stride, depth, out, out_stride, *scales = passed
    here = _constant(4 * column)
    if scales:
        of_rows, of_columns, columns_stride = scales
        scales = [builder.add(of_rows, _constant(8 * row)), builder.add(of_columns, here), columns_stride]
    left = builder.add(left, builder.mul(left_stride, _constant(row)))
    out = builder.add(builder.add(out, builder.mul(out_stride, _constant(row))), here)
    return [left, left_stride, builder.add(right, here), right_stride, depth, out, out_stride, *scales]


def _block(module: ir.Module, kind: _Kind, rows: int) -> ir.Function:
    """Define a block of exactly `rows` rows, if it is not: one loop over the depth, with all sums in registers."""
    name = f"{kind.name}_{rows}"
    if name in module.globals:
        return module.globals[name]
    vector, columns = kind.vector, range(kind.columns_of_a_block // kind.lanes)
    height, zeros = rows + kind.has_row_of_zeros, ir.Constant(vector, [0] * kind.lanes)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kind.arguments), name)
    function.linkage = "internal"
    left, left_stride, right, right_stride, depth, out, out_stride, *scales = function.args
    entry, loop, end = (function.append_basic_block(part) for part in ("entry", "loop", "end"))
    builder = ir.IRBuilder(entry)
    builder.branch(loop)
    builder.position_at_end(loop)
    index = builder.phi(_i64)
    sums = [[builder.phi(vector) for _ in columns] for _ in range(height)]
    right_row = builder.add(right, builder.mul(index, right_stride))
    loaded = [_load(builder, vector, right_row, column) for column in columns]
    left_column = builder.add(left, builder.mul(index, _constant(4)))
    following = []
    for row in range(height):
        here = builder.add(left_column, builder.mul(left_stride, _constant(row)))
        value = _repeat(builder, vector, here) if row < rows else zeros
        following.append([kind.step(builder, sums[row][column], value, loaded[column]) for column in columns])
    next_index = builder.add(index, _constant(1))
    builder.cbranch(builder.icmp_signed("<", next_index, depth), loop, end)
    index.add_incoming(_constant(0), entry)
    index.add_incoming(next_index, loop)
    for row in range(height):
        for column in columns:
            sums[row][column].add_incoming(zeros, entry)
            sums[row][column].add_incoming(following[row][column], loop)
    builder.position_at_end(end)
    if kind.has_row_of_zeros:
        *following, of_zeros = following
        following = [list(map(builder.sub, of_row, of_zeros)) for of_row in following]
    results = _dequantize(builder, following, *scales) if kind.is_quantized else following
    for row in range(rows):
        out_row = builder.add(out, builder.mul(out_stride, _constant(row)))
        for column in columns:
            _store(builder, results[row][column], out_row, column)
    builder.ret_void()
    return function


def _dequantize(
    builder: ir.IRBuilder, sums: list[list[ir.Value]], of_rows: ir.Value, of_columns: ir.Value, stride: ir.Value
) -> list[list[ir.Value]]:
    """Turn sums of products of bytes into floats, as `byte_tile` says."""
    floats = ir.VectorType(ir.FloatType(), sums[0][0].type.count)
    starts = [builder.add(of_columns, builder.mul(stride, _constant(row))) for row in range(3)]
    columns = [[_load(builder, floats, start, index) for start in starts] for index in range(len(sums[0]))]
    results = []
    for row, of_row in enumerate(sums):
        step = _repeat(builder, floats, builder.add(of_rows, _constant(8 * row)))
        low = _repeat(builder, floats, builder.add(of_rows, _constant(8 * row + 4)))
        found = []
        for total, (column_step, column_sum, bias) in zip(of_row, columns, strict=True):
            shift = dots.fused_multiply_add(builder, bias, low, column_sum)
            scale = builder.fmul(step, column_step)
            found.append(dots.fused_multiply_add(builder, shift, builder.sitofp(total, floats), scale))
        results.append(found)
    return results


def _constant(value: int) -> ir.Constant:
    return ir.Constant(_i64, value)


def _load(builder: ir.IRBuilder, vector: ir.VectorType, address: ir.Value, index: int) -> ir.Value:
    """Load the index-th vector from an address on."""
    here = builder.add(address, _constant(4 * vector.count * index))
    return builder.load(builder.inttoptr(here, vector.as_pointer()), align=4)


def _store(builder: ir.IRBuilder, vector: ir.Value, address: ir.Value, index: int) -> None:
    here = builder.add(address, _constant(4 * vector.type.count * index))
    builder.store(vector, builder.inttoptr(here, vector.type.as_pointer()), align=4)


def _repeat(builder: ir.IRBuilder, vector: ir.VectorType, address: ir.Value) -> ir.Value:
    """Load the number at an address into every lane."""
    value = builder.load(builder.inttoptr(address, vector.element.as_pointer()), align=4)
    undefined = ir.Constant(vector, ir.Undefined)
    single = builder.insert_element(undefined, value, ir.Constant(_i32, 0))
    everywhere = ir.Constant(ir.VectorType(_i32, vector.count), [0] * vector.count)
    return builder.shuffle_vector(single, undefined, everywhere)
