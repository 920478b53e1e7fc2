"""Register tiles: matrix products whose sums stay in registers from the first to the last step, made with LLVM.

Their loops are written in LLVM's language, because no loop in Python is compiled to the processor's dot product of
bytes. `load` compiles them once a process, in a fraction of a second; numba's code is linked to them by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types

LANES = 16  # 32-bit numbers in a vector register of 64 bytes
MAX_TILE_ROWS = 14  # x 2 registers of sums, 2 of columns and 1 of a row's value: 31 of the 32 registers

_i8, _i16, _i32, _i64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_ints, _floats = ir.VectorType(_i32, LANES), ir.VectorType(ir.FloatType(), LANES)

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
"""


def byte_dot_instruction() -> str:
    """Return how this processor multiplies bytes: "avx512_vnni", "avx_vnni", or else "portable"."""
    features = llvm.get_host_cpu_features()
    if features.get("avx512vnni") and features.get("avx512f"):
        return "avx512_vnni"
    if features.get("avxvnni"):
        return "avx_vnni"
    return "portable"


@cache
def load(instruction: str = "") -> None:
    """Compile the tiles and make them known to all code that is linked later.

    instruction: as `byte_dot_instruction` names it; empty for the best of this processor
    """
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    module = ir.Module(name="tiles")
    module.triple = llvm.get_process_triple()
    names = [_define(module, kind) for kind in _kinds(instruction or byte_dot_instruction())]
    features = llvm.get_host_cpu_features().flatten()
    machine = llvm.Target.from_triple(module.triple).create_target_machine(llvm.get_host_cpu_name(), features, opt=2)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(str(module)), machine)
    engine.finalize_object()
    for name in names:
        llvm.add_symbol(name, engine.get_function_address(name))
    _loaded.append(engine)  # its code lives as long as it does


_loaded: list[llvm.ExecutionEngine] = []

Step = Callable[[ir.IRBuilder, ir.Value, ir.Value, ir.Value], ir.Value]
"""(builder, sums, left value in every lane, right columns) -> sums"""


@dataclass(frozen=True, slots=True)
class _Kind:
    """Describes a tile of `columns` registers; `is_quantized`: its sums become floats as `byte_tile` says."""

    name: str
    columns: int
    vector: ir.VectorType
    step: Step
    is_quantized: bool = False

    @property
    def arguments(self) -> list[ir.Type]:
        return [_i64] * (11 if self.is_quantized else 8)


def _kinds(instruction: str) -> list[_Kind]:
    return [
        _Kind("float_tile", 1, _floats, _fused_multiply_add),
        _Kind("wide_float_tile", 2, _floats, _fused_multiply_add),
        _Kind("byte_tile", 2, _ints, _BYTE_DOTS[instruction], is_quantized=True),
    ]


def _define(module: ir.Module, kind: _Kind) -> str:
    """Define the function that calls the tile for as many rows as its last argument says; return its name."""
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kind.arguments), kind.name)
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    done = function.append_basic_block("done")
    *passed, wanted = function.args
    switch = builder.switch(wanted, done)
    for rows in range(1, MAX_TILE_ROWS + 1):
        block = function.append_basic_block(f"rows_{rows}")
        switch.add_case(_constant(rows), block)
        builder.position_at_end(block)
        builder.call(_define_tile(module, kind, rows), passed)
        builder.branch(done)
    builder.position_at_end(done)
    builder.ret_void()
    return kind.name


def _define_tile(module: ir.Module, kind: _Kind, rows: int) -> ir.Function:
    """Define a tile of exactly `rows` rows: one loop over the depth, with all sums in registers."""
    vector, columns = kind.vector, range(kind.columns)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kind.arguments[:-1]), f"{kind.name}_{rows}")
    function.linkage = "internal"
    left, left_stride, right, right_stride, depth, out, out_stride, *scales = function.args
    entry, loop, end = (function.append_basic_block(part) for part in ("entry", "loop", "end"))
    builder = ir.IRBuilder(entry)
    builder.branch(loop)
    builder.position_at_end(loop)
    index = builder.phi(_i64)
    sums = [[builder.phi(vector) for _ in columns] for _ in range(rows)]
    right_row = builder.add(right, builder.mul(index, right_stride))
    loaded = [_load(builder, vector, right_row, column) for column in columns]
    left_column = builder.add(left, builder.mul(index, _constant(4)))
    following = []
    for row in range(rows):
        value = _repeat(builder, vector, builder.add(left_column, builder.mul(left_stride, _constant(row))))
        following.append([kind.step(builder, sums[row][column], value, loaded[column]) for column in columns])
    next_index = builder.add(index, _constant(1))
    builder.cbranch(builder.icmp_signed("<", next_index, depth), loop, end)
    index.add_incoming(_constant(0), entry)
    index.add_incoming(next_index, loop)
    for row in range(rows):
        for column in columns:
            sums[row][column].add_incoming(ir.Constant(vector, [0] * LANES), entry)
            sums[row][column].add_incoming(following[row][column], loop)
    builder.position_at_end(end)
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
    starts = [builder.add(of_columns, builder.mul(stride, _constant(row))) for row in range(3)]
    columns = [[_load(builder, _floats, start, index) for start in starts] for index in range(len(sums[0]))]
    results = []
    for row, of_row in enumerate(sums):
        step = _repeat(builder, _floats, builder.add(of_rows, _constant(8 * row)))
        low = _repeat(builder, _floats, builder.add(of_rows, _constant(8 * row + 4)))
        found = []
        for total, (column_step, column_sum, bias) in zip(of_row, columns, strict=True):
            shift = _fused_multiply_add(builder, bias, low, column_sum)
            scale = builder.fmul(step, column_step)
            found.append(_fused_multiply_add(builder, shift, builder.sitofp(total, _floats), scale))
        results.append(found)
    return results


def _dot_512(builder: ir.IRBuilder, sums: ir.Value, unsigned: ir.Value, signed: ir.Value) -> ir.Value:
    return _call(builder, "llvm.x86.avx512.vpdpbusd.512", _ints, sums, unsigned, signed)


def _dot_256(builder: ir.IRBuilder, sums: ir.Value, unsigned: ir.Value, signed: ir.Value) -> ir.Value:
    half = ir.VectorType(_i32, LANES // 2)
    halves = []
    for start in (0, LANES // 2):
        lanes = ir.Constant(half, list(range(start, start + LANES // 2)))
        parts = [builder.shuffle_vector(whole, whole, lanes) for whole in (sums, unsigned, signed)]
        halves.append(_call(builder, "llvm.x86.avx512.vpdpbusd.256", half, *parts))
    return builder.shuffle_vector(*halves, ir.Constant(_ints, list(range(LANES))))


def _dot_portable(builder: ir.IRBuilder, sums: ir.Value, unsigned: ir.Value, signed: ir.Value) -> ir.Value:
    """Add products of bytes by plain multiplications, which every processor has and which give the same integers."""
    count = 4 * LANES
    one = builder.zext(builder.bitcast(unsigned, ir.VectorType(_i8, count)), ir.VectorType(_i32, count))
    other = builder.sext(builder.bitcast(signed, ir.VectorType(_i8, count)), ir.VectorType(_i32, count))
    products = builder.mul(one, other)
    for offset in range(4):
        lanes = ir.Constant(_ints, list(range(offset, count, 4)))
        sums = builder.add(sums, builder.shuffle_vector(products, products, lanes))
    return sums


_BYTE_DOTS: dict[str, Step] = {"avx512_vnni": _dot_512, "avx_vnni": _dot_256, "portable": _dot_portable}


def _fused_multiply_add(builder: ir.IRBuilder, sums: ir.Value, one: ir.Value, other: ir.Value) -> ir.Value:
    return _call(builder, "llvm.fma.v16f32", _floats, one, other, sums)


def _call(builder: ir.IRBuilder, name: str, vector: ir.VectorType, *values: ir.Value) -> ir.Value:
    """Call an intrinsic of LLVM that takes and returns vectors of one kind."""
    known = builder.module.globals.get(name)
    kind = ir.FunctionType(vector, [vector] * len(values))
    return builder.call(known or ir.Function(builder.module, kind, name), values)


def _constant(value: int) -> ir.Constant:
    return ir.Constant(_i64, value)


def _load(builder: ir.IRBuilder, vector: ir.VectorType, address: ir.Value, index: int) -> ir.Value:
    """Load the index-th vector from an address on."""
    here = builder.add(address, _constant(4 * LANES * index))
    return builder.load(builder.inttoptr(here, vector.as_pointer()), align=4)


def _store(builder: ir.IRBuilder, vector: ir.Value, address: ir.Value, index: int) -> None:
    here = builder.add(address, _constant(4 * LANES * index))
    builder.store(vector, builder.inttoptr(here, vector.type.as_pointer()), align=4)


def _repeat(builder: ir.IRBuilder, vector: ir.VectorType, address: ir.Value) -> ir.Value:
    """Load the number at an address into every lane."""
    value = builder.load(builder.inttoptr(address, vector.element.as_pointer()), align=4)
    undefined = ir.Constant(vector, ir.Undefined)
    single = builder.insert_element(undefined, value, ir.Constant(_i32, 0))
    return builder.shuffle_vector(single, undefined, ir.Constant(_ints, [0] * LANES))
