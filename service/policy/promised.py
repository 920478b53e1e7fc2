"""What an operator asks to be promised, and what is proven of it. Who proves it, and on what, is known elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from service.errors import BadInput
from service.exits.policy import ExitPolicy
from service.promise.agreement import (
    LEAST_DISAGREEMENT,
    MOST_DISAGREEMENT,
    Promise,
    disagreement_for_loss,
    least_gold_f1,
)
from service.promise.certificates import Terms

EXAMPLE = '{"max_disagreement": 0.02, "confidence": 0.95}'
EXAMPLE_OF_LOSS = '{"max_f1_loss": 2.0, "on": "traffic"}'
LEAST_CONFIDENCE, MOST_CONFIDENCE = 0.5, 0.9999
SAMPLES_BY_DISAGREEMENT, FEWEST_SAMPLES = 20, 400  # of a window: the less may be lost, the longer a proof takes


@dataclass(frozen=True, slots=True)
class PromiseGoal:
    """Asks for the fastest level that is certified: proven on this traffic to keep a promise of agreement.

    max_disagreement  1 - micro-F1 of the answers against full depth's, a fraction
    confidence        1 - the highest probability that a level is certified falsely in a window of samples
    max_f1_loss       F1 x 100 against gold, of full depth minus that of the answers, from which `max_disagreement` was
                      worked out; None if that was asked for itself
    full_f1           F1 x 100 of full depth against gold, with which it was
    Raises BadInput for values that cannot be promised.
    """

    max_disagreement: float
    confidence: float = 0.95
    max_f1_loss: float | None = None
    full_f1: float | None = None

    def __post_init__(self) -> None:
        for name, value in self.to_json().items():
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise BadInput(f"{name} is {value!r}; expected a number, as in {EXAMPLE}")
        if not LEAST_CONFIDENCE <= self.confidence <= MOST_CONFIDENCE:
            raise BadInput(
                f"confidence is {self.confidence!r}; expected a number from {LEAST_CONFIDENCE} to {MOST_CONFIDENCE}"
            )
        Promise(self.max_disagreement)

    @classmethod
    def merged(cls, current: PromiseGoal | None, changes: Mapping[str, Any]) -> PromiseGoal:
        """Return `current` merged with `changes` (RFC 7396). Raises BadInput."""
        merged = {**(current.to_json() if current else {}), **changes}
        if "max_disagreement" not in merged:
            raise BadInput(f"confidence needs max_disagreement beside it, as in {EXAMPLE}")
        if unknown := sorted(merged.keys() - {field.name for field in fields(cls)}):
            raise BadInput(f"a promise has no {', '.join(unknown)}")
        is_default = {name for name, value in merged.items() if name != "max_disagreement" and value is None}
        return cls(**{name: value for name, value in merged.items() if name not in is_default})

    @staticmethod
    def of_loss(max_f1_loss: object, full_f1: float) -> dict[str, Any]:
        """Return the changes that ask for the largest disagreement by which F1 against gold loses so little at most.

        Both are F1 x 100. Raises BadInput for a loss that is no number, or asks for more than can be certified.
        """
        if not isinstance(max_f1_loss, int | float) or isinstance(max_f1_loss, bool):
            raise BadInput(f"max_f1_loss is {max_f1_loss!r}; expected a number, as in {EXAMPLE_OF_LOSS}")
        least, most = (math.ceil(100 * _loss(full_f1, of)) / 100 for of in (LEAST_DISAGREEMENT, MOST_DISAGREEMENT))
        if not least <= max_f1_loss < most:
            raise BadInput(
                f"max_f1_loss is {max_f1_loss!r}; on the traffic, with {full_f1:g} F1 of full depth, a number from "
                f"{least:g} to below {most:g} can be promised"
            )
        disagreement = math.floor(1e6 * disagreement_for_loss(full_f1 / 100, max_f1_loss / 100)) / 1e6
        return {"max_disagreement": disagreement, "max_f1_loss": max_f1_loss, "full_f1": full_f1}

    def to_json(self) -> dict[str, Any]:
        """Return the fields that have a value."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def promise(self) -> Promise:
        """The promise that a level must keep."""
        return Promise(self.max_disagreement)

    @property
    def terms(self) -> Terms:
        """How sure certificates have to be, and for how long they hold, which is about as long as a proof takes."""
        window = max(FEWEST_SAMPLES, round(SAMPLES_BY_DISAGREEMENT / self.max_disagreement))
        return Terms(delta=1 - self.confidence, window=window)


@dataclass(frozen=True, slots=True)
class Certified:
    """Says which levels are certified just now for which goal; the safest first, none behind one that is not."""

    goal: PromiseGoal
    levels: tuple[ExitPolicy, ...] = ()


def _loss(full_f1: float, disagreement: float) -> float:
    """Return what a disagreement may cost of F1 x 100 against gold."""
    return full_f1 - 100 * least_gold_f1(full_f1 / 100, disagreement)
