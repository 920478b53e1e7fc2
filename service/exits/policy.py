"""What every exit strategy is: frozen parameters with `evidence` (tensor maths) and `decide` (plain Python)."""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import numpy as np

from service.errors import BadInput
from service.exits.reading import Figures, Reading
from service.exits.sentence import Sentence

ExitReason = Literal["vote", "confidence", "learned", "budget", "last_layer"]
Evidence = tuple[float, ...]
HIGHEST_INT = 1_000_000  # more than any count of layers or words; a metric must be able to show it


@dataclass(frozen=True, slots=True)
class ExitPolicy(ABC):
    """A strategy with its parameters: an immutable value. Subclasses are frozen dataclasses; layers count from 1.

    calibrated_by  the parameters that say which calibrated defaults fit, beside the strategy: another value of one of
                   them changes what tau means
    thresholds     the parameters that only `decide` reads
    """

    strategy: ClassVar[str]
    calibrated_by: ClassVar[tuple[str, ...]] = ()
    thresholds: ClassVar[tuple[str, ...]] = ("tau", "gate", "patience", "layer")

    def work(self, sequence: Sentence, num_layers: int) -> int:
        """What admission counts a sequence as, in pieces that go to full depth: all it may come to."""
        return sequence.num_pieces

    @property
    def compares_tables(self) -> bool:
        """Whether `evidence` or `prediction` look at the tables themselves, not only at summaries and entities."""
        return False

    def needs_exit(self, layer: int, num_layers: int) -> bool:
        """Whether the exit after `layer` must be computed. Always true where `decide` may leave."""
        return True

    def evidence(self, readings: Sequence[Reading]) -> Figures:
        """What the exits computed so far show, the latest last -> (sequences, n) float64, on the host.

        Depends on each sequence's own cells alone, never on its batch mates, nor on thresholds. The default shows
        nothing.
        """
        return np.zeros((len(readings[-1].num_words), 0))

    @abstractmethod
    def decide(self, history: Sequence[Evidence], num_layers: int) -> ExitReason | None:
        """Leave here? `history` has one entry a layer that ran; -> the reason to leave, or None to go on.

        At the last layer the reason is always "last_layer".
        """

    def prediction(self, readings: Sequence[Reading]) -> Reading:
        """What a sequence answers that leaves here: the latest exit's reading, unless a strategy knows better."""
        return readings[-1]

    def check(self, num_layers: int) -> None:
        """Raise BadInput for a parameter that a model of `num_layers` layers cannot use."""

    def kind(self, num_layers: int) -> Hashable:
        """Equal for policies that compute the same exits and see the same evidence: they differ only in `decide`."""
        needed = tuple(self.needs_exit(layer, num_layers) for layer in range(1, num_layers + 1))
        return type(self), needed, *(getattr(self, f.name) for f in fields(self) if f.name not in self.thresholds)

    @classmethod
    def parameters(cls) -> list[str]:
        """Names of the parameters on the wire."""
        return [f.name for f in fields(cls) if f.metadata.get("on_the_wire", True)]

    def carried_over(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """What stays of strategy and parameters under `changes`: not a tau whose meaning they change."""
        if changes.get("strategy", self.strategy) != self.strategy:
            return {}
        is_recalibrated = bool(changes.keys() & set(self.calibrated_by))
        return {name: value for name, value in self.to_json().items() if name != "tau" or not is_recalibrated}

    @classmethod
    def defaults(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters that are taken where no calibration knows better, in the light of those that are given."""
        return {f.name: f.default for f in fields(cls) if f.name in cls.parameters()}

    def to_json(self) -> dict[str, Any]:
        """Strategy and parameters, as on the wire."""
        return {"strategy": self.strategy, **{name: getattr(self, name) for name in self.parameters()}}


def require_int(name: str, value: object, lowest: int) -> None:
    """Raise BadInput unless `value` is an integer from lowest to HIGHEST_INT."""
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= HIGHEST_INT:
        raise BadInput(f"{name} is {value!r}; expected an integer of at least {lowest} and at most {HIGHEST_INT}")


def require_number(name: str, value: object, lowest: float, highest: float, meaning: str) -> None:
    """Raise BadInput unless `value` is a finite number in [lowest, highest]; `meaning` says what it is a number of."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and abs(value) <= sys.float_info.max and lowest <= value <= highest:  # type: ignore[arg-type, operator]
        return
    bounds = f"at most {highest:g}" if lowest == -math.inf else f"from {lowest:g} to {highest:g}"
    raise BadInput(f"{name} is {value!r}; expected a number {bounds}: {meaning}")


def require_flag(name: str, value: object) -> None:
    """Raise BadInput unless `value` is true or false."""
    if not isinstance(value, bool):
        raise BadInput(f"{name} is {value!r}; expected true or false")


def require_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise BadInput unless `value` is one of `choices`."""
    if value not in choices:
        raise BadInput(f"{name} is {value!r}; expected one of {list(choices)}")
