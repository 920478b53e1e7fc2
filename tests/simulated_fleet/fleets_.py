"""Small fleets with costs that are made up. No test lives here."""

from __future__ import annotations

from benchmarks.simulated_fleet.costs import Costs, KernelCosts, PythonCosts
from benchmarks.simulated_fleet.process import Flight, Served
from benchmarks.simulated_fleet.recording import Level, Recording
from service.autopilot.law import ControlLaw

PIECES, LAYERS = 10, 4
LAYER_S = 0.002  # of a sequence
NOTHING = {name: 0.0 for name in PythonCosts.__dataclass_fields__}
FULL, CUT = {"strategy": "full_depth"}, {"strategy": "budgeted", "layer": 1}
SPEEDS = (1.0, 4.0)


def kernels(layer_s: float, num_layers: int) -> KernelCosts:
    """A layer takes so long for each sequence, whatever its length; exits take nothing."""
    of_layer = ((layer_s, 2 * layer_s),)
    nothing = ((0.0, 0.0),)
    return KernelCosts((PIECES,), (1, 2), (of_layer,) * num_layers, (nothing,) * num_layers)


def costs_of(layer_s: float = LAYER_S, *, num_layers: int = LAYERS, at_once: int = 8, **python: float) -> Costs:
    """Costs with so many sequences in a step, and what of Python takes any time."""
    return Costs({1: kernels(layer_s, num_layers)}, PythonCosts(**{**NOTHING, **python}), at_once * PIECES)


def recording_of(*texts: tuple[int, ...], num_layers: int = LAYERS) -> Recording:
    """Texts by the pieces of their sequences, which leave at the end at full depth and after layer 1 when cut."""
    sequences = texts or ((PIECES,),)
    count = sum(map(len, sequences))
    full = Level(FULL, SPEEDS[0], 0.0, (num_layers,) * count)
    cut = Level(CUT, SPEEDS[1], 1.0, (1,) * count)
    levels = {"full_depth": full, "level 0": full, "level 1": cut}
    return Recording(num_layers, tuple(4 * sum(text) for text in sequences), sequences, levels)


def autopilot(p95_ms: float = 50.0) -> Served:
    """Between full depth and the cut."""
    return Served("full_depth", Flight(("level 0", "level 1"), ControlLaw(SPEEDS, p95_ms / 1_000)))
