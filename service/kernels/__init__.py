"""Kernels for the CPU, which numba compiles from Python when they are first needed. They know arrays, no models."""

from service.kernels.cache import keep_by_source

keep_by_source()  # before the first kernel is defined: numba asks at its definition
