"""Machine code for the CPU, compiled from Python by numba when it is first needed. Knows arrays, no models."""
