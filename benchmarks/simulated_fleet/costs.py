"""What things take, in seconds, as measured by `benchmarks.simulated_fleet.measuring`; and how it is kept in JSON."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

Grid = Sequence[Sequence[float]]
"""Seconds of a step, by pieces of a sequence and sequences of the step: (lengths, batches). Rows may be shorter."""


@dataclass(frozen=True, slots=True)
class KernelCosts:
    """Seconds of the layer steps of an executor with so many threads.

    lengths, batches  of the grids' rows and columns: pieces of each sequence, and sequences of a step
    layers            by layer, without its exit
    exits             by layer, what the exit after it takes beside it
    """

    lengths: tuple[int, ...]
    batches: tuple[int, ...]
    layers: tuple[Grid, ...]
    exits: tuple[Grid, ...]
    _known: dict[tuple[int, int, int, bool], float] = field(default_factory=dict, repr=False, compare=False)

    def seconds(self, layer: int, sequences: int, pieces: int, with_exit: bool) -> float:
        """Return what a step of one layer takes; `pieces` are of all its sequences together.

        Between the points of the grid it is linear in the sequences and in their mean length, and so beyond its ends.
        """
        asked = (layer, sequences, pieces, with_exit)
        if (known := self._known.get(asked)) is None:
            known = self._interpolated(self.layers[layer - 1], sequences, pieces)
            if with_exit:
                known += self._interpolated(self.exits[layer - 1], sequences, pieces)
            self._known[asked] = known
        return known

    def _interpolated(self, grid: Grid, sequences: int, pieces: int) -> float:
        of_length = [_at(self.batches[: len(row)], row, sequences) for row in grid]
        return _at(self.lengths, of_length, pieces / sequences)


def _at(places: Sequence[float], values: Sequence[float], place: float) -> float:
    """Return the value at a place, linear between those that are known, above 0 and constant below the first."""
    if len(places) == 1 or place <= places[0]:
        return values[0]
    above = min(bisect_right(places, place), len(places) - 1)
    share = (place - places[above - 1]) / (places[above] - places[above - 1])
    return max(0.0, values[above - 1] + share * (values[above] - values[above - 1]))


@dataclass(frozen=True, slots=True)
class PythonCosts:
    """Seconds of Python beside the kernels, for which threads of a process take turns.

    Of the engine's thread:
    step, sequence, evidence, answer  a step; each of its sequences; those whose exit a policy looks at; one that leaves

    Of the event loop:
    turn         of the loop, whatever is done in it
    take, piece  a request, from its first byte until it is submitted; and each of its pieces
    reply        a request that the engine has answered, until it is sent
    refusal      a request that is refused by its head

    wake         from when a thread that sleeps is given something to do until it does it; no core is busy meanwhile
    client       of the benchmark's client, a request; half of it before it is sent
    """

    step: float
    sequence: float
    evidence: float
    answer: float
    turn: float
    take: float
    piece: float
    reply: float
    refusal: float
    wake: float
    client: float


@dataclass(frozen=True, slots=True)
class Costs:
    """All costs of a model on a machine.

    kernels          by threads
    max_step_pieces  the most pieces of a step, as the executor wishes
    environment      on what they depend: processor, cores, executor, versions
    """

    kernels: Mapping[int, KernelCosts]
    python: PythonCosts
    max_step_pieces: int
    environment: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_layers(self) -> int:
        """The layers of the model."""
        return len(next(iter(self.kernels.values())).layers)

    def of_threads(self, threads: int) -> KernelCosts:
        """Return the costs of so many threads, or of the nearest number that was measured."""
        return self.kernels[min(self.kernels, key=lambda known: (abs(known - threads), known))]

    def to_json(self) -> dict[str, Any]:
        """Return the costs as plain JSON types; kernels in microseconds to a tenth, Python as it is."""
        kernels = {
            str(threads): {
                "lengths": list(one.lengths),
                "batches": list(one.batches),
                "layers_us": [_micros(grid) for grid in one.layers],
                "exits_us": [_micros(grid) for grid in one.exits],
            }
            for threads, one in self.kernels.items()
        }
        python = {f"{name}_us": round(1e6 * value, 2) for name, value in asdict(self.python).items()}
        return {
            "environment": dict(self.environment),
            "max_step_pieces": self.max_step_pieces,
            "python": python,
            "kernels": kernels,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Costs:
        """Read what `to_json` returned."""
        kernels = {
            int(threads): KernelCosts(
                tuple(one["lengths"]),
                tuple(one["batches"]),
                tuple(_seconds(grid) for grid in one["layers_us"]),
                tuple(_seconds(grid) for grid in one["exits_us"]),
            )
            for threads, one in data["kernels"].items()
        }
        python = PythonCosts(**{name.removesuffix("_us"): value / 1e6 for name, value in data["python"].items()})
        return cls(kernels, python, data["max_step_pieces"], data["environment"])


def _micros(grid: Grid) -> list[list[float]]:
    return [[round(1e6 * seconds, 1) for seconds in row] for row in grid]


def _seconds(grid: Grid) -> Grid:
    return tuple(tuple(micros / 1e6 for micros in row) for row in grid)
