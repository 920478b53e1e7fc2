"""Steps of a product of bytes, in LLVM's language: sums of four products each, added to 32-bit numbers.

Every step takes (builder, sums, unsigned, signed), vectors of 32-bit numbers whose four bytes are the factors, and
returns the sums with the products added.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir

Step = Callable[[ir.IRBuilder, ir.Value, ir.Value, ir.Value], ir.Value]

_i8, _i16, _i32 = (ir.IntType(bits) for bits in (8, 16, 32))


def vnni_512(builder: ir.IRBuilder, sums: ir.Value, unsigned: ir.Value, signed: ir.Value) -> ir.Value:
    """Add by one instruction, 16 lanes at a time."""
    return call(builder, "llvm.x86.avx512.vpdpbusd.512", sums.type, (sums, unsigned, signed))


def vnni_256(builder: ir.IRBuilder, sums: ir.Value, unsigned: ir.Value, signed: ir.Value) -> ir.Value:
    """Add by one instruction, 8 lanes at a time."""
    return call(builder, "llvm.x86.avx512.vpdpbusd.256", sums.type, (sums, unsigned, signed))


def avx2_pairs(builder: ir.IRBuilder, sums: ir.Value, unsigned: ir.Value, signed: ir.Value) -> ir.Value:
    """Add by three instructions, the first of which adds two products in 16 bits: they must not be larger together.

    They are not where no two neighbouring weights of one sign exceed 128 together, since 255 * 128 < 2**15.
    """
    words = ir.VectorType(_i16, 2 * sums.type.count)
    pairs = call(builder, "llvm.x86.avx2.pmadd.ub.sw", words, _bytes(builder, unsigned, signed))
    ones = ir.Constant(words, [1] * words.count)
    return builder.add(sums, call(builder, "llvm.x86.avx2.pmadd.wd", sums.type, (pairs, ones)))


def avx2_words(builder: ir.IRBuilder, sums: ir.Value, unsigned: ir.Value, signed: ir.Value) -> ir.Value:
    """Add by four instructions that multiply words, bytes of even and of odd places apart, after widening both sides.

    The widened columns serve all rows of a tile, and a widened row all its columns.
    """
    words = ir.VectorType(_i16, 2 * sums.type.count)
    eight = ir.Constant(words, [8] * words.count)
    one, other = (builder.bitcast(value, words) for value in (unsigned, signed))
    even = builder.and_(one, ir.Constant(words, [255] * words.count)), builder.ashr(builder.shl(other, eight), eight)
    odd = builder.lshr(one, eight), builder.ashr(other, eight)
    for factors in (even, odd):
        sums = builder.add(sums, call(builder, "llvm.x86.avx2.pmadd.wd", sums.type, factors))
    return sums


def neon_i8mm(builder: ir.IRBuilder, sums: ir.Value, unsigned: ir.Value, signed: ir.Value) -> ir.Value:
    """Add by one instruction, 4 lanes at a time."""
    factors = _bytes(builder, unsigned, signed)
    return call(builder, "llvm.aarch64.neon.usdot.v4i32.v16i8", sums.type, (sums, *factors))


def neon_dotprod(builder: ir.IRBuilder, sums: ir.Value, unsigned: ir.Value, signed: ir.Value) -> ir.Value:
    """Add by one instruction, 4 lanes at a time, that takes signed bytes alone: so 128 is taken from unsigned ones.

    Sums are short of 128 times the signed bytes then, as those of a row of zeros are.
    """
    one, other = _bytes(builder, unsigned, signed)
    less = builder.xor(one, ir.Constant(one.type, [-128] * one.type.count))
    return call(builder, "llvm.aarch64.neon.sdot.v4i32.v16i8", sums.type, (sums, less, other))


def portable(builder: ir.IRBuilder, sums: ir.Value, unsigned: ir.Value, signed: ir.Value) -> ir.Value:
    """Add products of bytes by plain multiplications, which every processor has and which give the same integers."""
    count = 4 * sums.type.count
    one, other = _bytes(builder, unsigned, signed)
    wide = ir.VectorType(_i32, count)
    products = builder.mul(builder.zext(one, wide), builder.sext(other, wide))
    for offset in range(4):
        lanes = ir.Constant(sums.type, list(range(offset, count, 4)))
        sums = builder.add(sums, builder.shuffle_vector(products, products, lanes))
    return sums


def fused_multiply_add(builder: ir.IRBuilder, sums: ir.Value, one: ir.Value, other: ir.Value) -> ir.Value:
    """Add products of floats, which are not rounded before they are added."""
    return call(builder, f"llvm.fma.v{sums.type.count}f32", sums.type, (one, other, sums))


def _bytes(builder: ir.IRBuilder, *values: ir.Value) -> list[ir.Value]:
    """Return vectors of 32-bit numbers as vectors of their bytes."""
    return [builder.bitcast(value, ir.VectorType(_i8, 4 * value.type.count)) for value in values]


def call(builder: ir.IRBuilder, name: str, result: ir.Type, values: Sequence[ir.Value]) -> ir.Value:
    """Call an intrinsic of LLVM."""
    known = builder.module.globals.get(name)
    kind = ir.FunctionType(result, [value.type for value in values])
    return builder.call(known or ir.Function(builder.module, kind, name), values)
