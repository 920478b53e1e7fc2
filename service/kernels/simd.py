"""Operations that numba does not offer: memory by address, bits of a float, atomic counters, extremes of a row."""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic

from service.kernels.tiles import LANES

_i32, _i64, _f32 = ir.IntType(32), ir.IntType(64), ir.FloatType()
_floats = ir.VectorType(_f32, LANES)


def _constant(value: int) -> ir.Constant:
    return ir.Constant(_i64, value)


@intrinsic  # type: ignore[untyped-decorator]
def lowest_and_highest(_: Any, address: Any, count: Any) -> Any:
    """Return the smallest and the largest of `count` float32 at an address; count is a multiple of LANES, not 0."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        address, count = values
        before = builder.block
        loop, end = (builder.append_basic_block(part) for part in ("extremes", "extremes_done"))
        first = builder.load(builder.inttoptr(address, _floats.as_pointer()), align=4)
        builder.branch(loop)
        builder.position_at_end(loop)
        index, lowest, highest = builder.phi(_i64), builder.phi(_floats), builder.phi(_floats)
        here = builder.add(address, builder.mul(index, _constant(4)))
        loaded = builder.load(builder.inttoptr(here, _floats.as_pointer()), align=4)
        pair = ir.FunctionType(_floats, [_floats, _floats])
        smaller = builder.call(get_or_insert_function(builder.module, pair, "llvm.minnum.v16f32"), [lowest, loaded])
        larger = builder.call(get_or_insert_function(builder.module, pair, "llvm.maxnum.v16f32"), [highest, loaded])
        following = builder.add(index, _constant(LANES))
        for phi, start, step in ((index, _constant(0), following), (lowest, first, smaller), (highest, first, larger)):
            phi.add_incoming(start, before)
            phi.add_incoming(step, loop)
        builder.cbranch(builder.icmp_signed("<", following, count), loop, end)
        builder.position_at_end(end)
        reduction = ir.FunctionType(_f32, [_floats])
        least = get_or_insert_function(builder.module, reduction, "llvm.vector.reduce.fmin.v16f32")
        most = get_or_insert_function(builder.module, reduction, "llvm.vector.reduce.fmax.v16f32")
        pair_of_both = [builder.call(least, [smaller]), builder.call(most, [larger])]
        return context.make_tuple(builder, signature.return_type, pair_of_both)

    return types.UniTuple(types.float32, 2)(types.int64, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def floats_at(_: Any, address: Any) -> Any:
    """Return the memory at an address as a pointer to float32 for `numba.carray`."""
    return _pointer(types.float32)


@intrinsic  # type: ignore[untyped-decorator]
def doubles_at(_: Any, address: Any) -> Any:
    """Return the memory at an address as a pointer to float64 for `numba.carray`."""
    return _pointer(types.float64)


@intrinsic  # type: ignore[untyped-decorator]
def bytes_at(_: Any, address: Any) -> Any:
    """Return the memory at an address as a pointer to uint8 for `numba.carray`."""
    return _pointer(types.uint8)


@intrinsic  # type: ignore[untyped-decorator]
def longs_at(_: Any, address: Any) -> Any:
    """Return the memory at an address as a pointer to int64 for `numba.carray`."""
    return _pointer(types.int64)


def _pointer(kind: Any) -> Any:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[0], context.get_value_type(signature.return_type))

    return types.CPointer(kind)(types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def float_of_bits(_: Any, bits: Any) -> Any:
    """Return the float32 that has these 32 bits."""

    def generate(__: Any, builder: ir.IRBuilder, ___: Any, values: Any) -> Any:
        return builder.bitcast(values[0], _f32)

    return types.float32(types.int32), generate


@intrinsic  # type: ignore[untyped-decorator]
def bits_of_float(_: Any, number: Any) -> Any:
    """Return the 32 bits of a float32."""

    def generate(__: Any, builder: ir.IRBuilder, ___: Any, values: Any) -> Any:
        return builder.bitcast(values[0], _i32)

    return types.int32(types.float32), generate


@intrinsic  # type: ignore[untyped-decorator]
def fetch_and_add(_: Any, address: Any, value: Any) -> Any:
    """Add to an int64 that other threads may be changing; return what it was before."""

    def generate(__: Any, builder: ir.IRBuilder, ___: Any, values: Any) -> Any:
        return builder.atomic_rmw("add", builder.inttoptr(values[0], _i64.as_pointer()), values[1], "seq_cst")

    return types.int64(types.int64, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def load_shared(_: Any, address: Any) -> Any:
    """Read an int64 that other threads may be changing."""

    def generate(__: Any, builder: ir.IRBuilder, ___: Any, values: Any) -> Any:
        return builder.load_atomic(builder.inttoptr(values[0], _i64.as_pointer()), "seq_cst", 8)

    return types.int64(types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def store_shared(_: Any, address: Any, value: Any) -> Any:
    """Write an int64 that other threads may be reading."""

    def generate(context: Any, builder: ir.IRBuilder, ___: Any, values: Any) -> Any:
        builder.store_atomic(values[1], builder.inttoptr(values[0], _i64.as_pointer()), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def pause(_: Any) -> Any:
    """Tell the processor that this thread waits in a loop."""

    def generate(context: Any, builder: ir.IRBuilder, __: Any, ___: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [])
        if "x86" in llvm.get_process_triple():
            builder.call(get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), generate
