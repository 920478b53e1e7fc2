"""Types by which a strategy declares its parameters: what each means, the values it takes, and those a sweep tries.

A parameter is a field of the strategy's dataclass, annotated with one of the kinds below. All code that checks, sweeps,
documents or draws parameters reads these declarations; there is no second list.
"""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import numpy as np

from service.errors import BadInput
from service.exits.assets import ModelAssets

Evidence = tuple[float, ...]
Evidences = Sequence[Sequence[Evidence]]
"""What a policy saw of every sequence after every layer: [layer - 1][sequence]."""
Grid = Sequence[Any] | Callable[[ModelAssets, Evidences], Sequence[Any]]
"""The values that a sweep tries: fixed ones, or a function of the model and of what a policy saw there."""
Kind = Literal["number", "integer", "flag", "choice"]

HIGHEST_INT = 1_000_000  # more than any count of layers or words; a metric must be able to show it
NUM_QUANTILES = 60


@dataclass(frozen=True, slots=True)
class Scale:
    """Says how a threshold is drawn: by its distance from the surest value, since small distances matter most.

    surest    the value that leaves no doubt
    farthest  the value at the other end of a slider
    is_even   whether values are drawn evenly; else the distance from `surest` is on a logarithmic scale
    """

    surest: float = 0.0
    farthest: float = 1.0
    is_even: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter(ABC):
    """Declares one parameter of a strategy.

    kind     its type on the wire
    meaning  what it decides, in words that follow "a number from 0 to 1:"
    unit     of its values; empty for names, flags and plain counts
    grid     the values that a sweep tries; empty for a parameter that keeps its default
    ends     what the two ends of a slider do, lowest value first
    """

    kind: ClassVar[Kind]

    meaning: str
    unit: str = ""
    grid: Grid = ()
    ends: tuple[str, str] | None = None

    @abstractmethod
    def check(self, name: str, value: object) -> None:
        """Raise BadInput, with the parameter's `name`, for a value that the parameter does not take."""

    def values(self, model: ModelAssets, seen: Evidences) -> Sequence[Any]:
        """Return the values that a sweep tries on a model, given what a policy saw there."""
        return self.grid(model, seen) if callable(self.grid) else self.grid


@dataclass(frozen=True, slots=True, kw_only=True)
class Number(Parameter):
    """Declares a finite number in [lowest, highest].

    scale  how it is drawn; None for one that is not drawn
    """

    kind: ClassVar[Kind] = "number"

    lowest: float = 0.0
    highest: float = 1.0
    scale: Scale | None = None

    def check(self, name: str, value: object) -> None:
        """Raise BadInput for a value that is not such a number."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and abs(value) <= sys.float_info.max and self.lowest <= value <= self.highest:  # type: ignore[arg-type, operator]
            return
        from_to = f"from {self.lowest:g} to {self.highest:g}"
        bounds = f"at most {self.highest:g}" if self.lowest == -math.inf else from_to
        raise BadInput(f"{name} is {value!r}; expected a number {bounds}: {self.meaning}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Count(Parameter):
    """Declares an integer in [lowest, HIGHEST_INT].

    is_odd  whether it has to be odd
    useful  returns the highest value that makes a difference on a model; None where that is not known
    """

    kind: ClassVar[Kind] = "integer"

    lowest: int = 1
    is_odd: bool = False
    useful: Callable[[ModelAssets], int] | None = None

    def check(self, name: str, value: object) -> None:
        """Raise BadInput for a value that is not such an integer."""
        if isinstance(value, bool) or not isinstance(value, int) or not self.lowest <= value <= HIGHEST_INT:
            bounds = f"an integer of at least {self.lowest} and at most {HIGHEST_INT}"
            raise BadInput(f"{name} is {value!r}; expected {bounds}")
        if self.is_odd and value % 2 == 0:
            raise BadInput(f"{name} is {value}; expected an odd number of {self.unit} up to {HIGHEST_INT - 1}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice(Parameter):
    """Declares one of some names."""

    kind: ClassVar[Kind] = "choice"

    choices: Sequence[str] = field(default=())

    def check(self, name: str, value: object) -> None:
        """Raise BadInput for a value that is none of the names."""
        if value not in self.choices:
            raise BadInput(f"{name} is {value!r}; expected one of {list(self.choices)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag(Parameter):
    """Declares true or false."""

    kind: ClassVar[Kind] = "flag"

    def check(self, name: str, value: object) -> None:
        """Raise BadInput for a value that is not a bool."""
        if not isinstance(value, bool):
            raise BadInput(f"{name} is {value!r}; expected true or false")


@dataclass(frozen=True, slots=True)
class OfModel:
    """Marks a field that is not a parameter but an asset of the model, which the strategy needs to run.

    lack  what is said of a model without the asset, in words that follow "strategy x needs"
    """

    lack: str


@cache
def parameters_of(strategy: type) -> dict[str, Parameter]:
    """Return a strategy's parameters by name, in the order of its fields."""
    return {name: marked for name, (_, marked) in _annotations(strategy).items() if isinstance(marked, Parameter)}


@cache
def asset_fields_of(strategy: type) -> dict[str, tuple[type, OfModel]]:
    """Return the type and the mark of every field that is an asset of the model, by name."""
    return {
        name: (kind, marked) for name, (kind, marked) in _annotations(strategy).items() if isinstance(marked, OfModel)
    }


def _annotations(strategy: type) -> dict[str, tuple[Any, object]]:
    hints = get_type_hints(strategy, include_extras=True)
    return {name: get_args(hint)[:2] for name, hint in hints.items() if get_origin(hint) is Annotated}


def quantiles(_: ModelAssets, seen: Evidences) -> list[float]:
    """Return quantiles of all numbers that were seen, to four digits: a grid for a threshold."""
    values = [value for of_layer in seen for evidence in of_layer for value in evidence]
    cuts = np.quantile(values, np.linspace(0.01, 0.99, NUM_QUANTILES)).tolist() if values else []
    return sorted({float(f"{value:.4g}") for value in cuts})


def all_layers(model: ModelAssets, _: Evidences) -> range:
    """Return 1, ..., num_layers: a grid for a layer."""
    return range(1, model.num_layers + 1)


def patiences(model: ModelAssets, _: Evidences) -> range:
    """Return the patiences that let some sequence leave early: a grid for patience.

    With two layers no patience does; the grid is 1 alone.
    """
    return range(1, max(model.num_layers - 1, 2))


def earlier_layers(model: ModelAssets) -> int:
    """Return the number of layers before the last: the highest patience worth asking for."""
    return max(1, model.num_layers - 1)


def num_layers(model: ModelAssets) -> int:
    """Return the number of layers: the highest layer worth asking for."""
    return model.num_layers
