"""Elementary functions of float32 in plain arithmetic, so that loops over them are compiled to vector instructions."""

from __future__ import annotations

import math

import numpy as np
from numba import float32, int32, njit

from service.kernels.simd import bits_of_float, float_of_bits

inline = njit(inline="always", fastmath={"contract", "nsz", "arcp"}, error_model="numpy")

_LOG2_E = np.float32(math.log2(math.e))
_LN_2_HIGH = np.float32(0.693359375)  # the first bits of ln 2, so that a multiple of it is exact
_LN_2_LOW = np.float32(math.log(2) - 0.693359375)
_EXP = tuple(np.float32(1 / math.factorial(power)) for power in range(7))
_LOG = tuple(np.float32(2 / power) for power in (1, 3, 5, 7, 9))
_ROOT_2 = np.float32(math.sqrt(2))
_ONE, _HALF, _ZERO = np.float32(1), np.float32(0.5), np.float32(0)
_SHIFT = np.float32(1.5 * 2**23)  # added to a small number, it leaves its integer in the lowest bits
_LOWEST, _HIGHEST = np.float32(-87), np.float32(88)
# Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26
_ERF_P = np.float32(0.3275911)
_ERF = tuple(np.float32(a) for a in (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429))


@inline
def exp(x):
    """Return e**x with a relative error below 3e-7; for x below -87, return that of -87, about 1e-38."""
    x = min(max(x, _LOWEST), _HIGHEST)
    shifted = x * _LOG2_E + _SHIFT
    n = shifted - _SHIFT  # to the nearest integer
    r = (x - n * _LN_2_HIGH) - n * _LN_2_LOW
    p = _EXP[6]
    p = p * r + _EXP[5]
    p = p * r + _EXP[4]
    p = p * r + _EXP[3]
    p = p * r + _EXP[2]
    p = p * r + _ONE
    p = p * r + _ONE
    return p * float_of_bits(int32(int32(bits_of_float(shifted) << int32(23)) + int32(0x3F800000)))


@inline
def log(x):
    """Return the natural logarithm of a normal number x > 0; its absolute error is below 2e-7 near 1."""
    bits = int32(bits_of_float(x) - int32(0x3F3504F3))  # 1 / sqrt(2): m lies in [1/sqrt 2, sqrt 2)
    n = float32(int32(bits >> int32(23)))
    m = float_of_bits(int32(int32(bits & int32(0x7FFFFF)) + int32(0x3F3504F3)))
    t = (m - _ONE) / (m + _ONE)
    square = t * t
    p = _LOG[4]
    p = p * square + _LOG[3]
    p = p * square + _LOG[2]
    p = p * square + _LOG[1]
    p = p * square + _LOG[0]
    return n * _LN_2_HIGH + (n * _LN_2_LOW + p * t)


@inline
def gelu(x):
    """Return x times the normal distribution's share below x, with an absolute error below 1e-6 times |x|."""
    z = abs(x) / _ROOT_2
    t = _ONE / (_ONE + _ERF_P * z)
    p = _ERF[4]
    p = p * t + _ERF[3]
    p = p * t + _ERF[2]
    p = p * t + _ERF[1]
    p = p * t + _ERF[0]
    tail = p * t * exp(-z * z) * _HALF  # the share beyond |x|
    return max(x, _ZERO) - abs(x) * tail
