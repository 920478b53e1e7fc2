"""Machine code for the CPU, compiled from Python by numba when it is first needed. Knows arrays, no models."""

from service.kernels.cache import keep_by_source

keep_by_source()  # before the first kernel is defined: numba asks at its definition
