"""What the autopilot is asked for, and the policies it may choose from. How it chooses lives in `service.autopilot`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from service.errors import BadInput
from service.exits.disagreement import Disagreement
from service.exits.parameters import Number
from service.exits.policy import ExitPolicy

HIGHEST_P95_MS = 60_000.0
READ_ONLY = ("level", "highest_level")
EXAMPLE = '{"p95_ms": 100, "max_f1_loss": 1.0}'


@dataclass(frozen=True, slots=True)
class Objective:
    """An operator's wish, to be kept by moving along the calibrated operating points.

    p95_ms            of requests, from their arrival to their answer
    max_f1_loss       F1 x 100 below full depth, as calibration measured it: no point that loses more is ever used
    max_disagreement  share of early leavers whose entities may differ from full depth's; None: any
    """

    p95_ms: float
    max_f1_loss: float
    max_disagreement: float | None = None

    def __post_init__(self) -> None:
        p95 = Number(lowest=1.0, highest=HIGHEST_P95_MS, meaning="milliseconds from request to answer")
        p95.check("autopilot.p95_ms", self.p95_ms)
        loss = Number(lowest=-100.0, highest=100.0, meaning="F1 x 100 below full depth")
        loss.check("autopilot.max_f1_loss", self.max_f1_loss)
        if self.max_disagreement is not None:
            share = Number(meaning="share of early answers that may differ from full depth's")
            share.check("autopilot.max_disagreement", self.max_disagreement)

    @classmethod
    def merged(cls, current: Objective | None, changes: object) -> Objective:
        """`current` with `changes` (RFC 7396), which are complete where there is no current one. Raises BadInput."""
        if not isinstance(changes, Mapping):
            raise BadInput(f"autopilot is {changes!r}; expected an object such as {EXAMPLE}, or null to switch it off")
        known = [field.name for field in fields(cls)]
        if read_only := sorted(changes.keys() & set(READ_ONLY)):
            raise BadInput(f"autopilot.{', '.join(read_only)} cannot be set; it has {known}")
        if unknown := sorted(changes.keys() - set(known)):
            raise BadInput(f"autopilot has no {', '.join(unknown)}; it has {known}")
        merged = {**(current.to_json() if current else {}), **changes}
        if missing := [name for name in ("p95_ms", "max_f1_loss") if merged.get(name) is None]:
            raise BadInput(f"autopilot needs {' and '.join(missing)}, as in {EXAMPLE}")
        return cls(**merged)

    def to_json(self) -> dict[str, Any]:
        """As on the wire."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Ladder:
    """The levels that an objective allows: level 0 is the most accurate policy, every further one is faster.

    speeds  by level, measured: times as fast as full depth
    """

    objective: Objective
    policies: tuple[ExitPolicy, ...]
    speeds: tuple[float, ...]

    def level_of(self, policy: ExitPolicy) -> int | None:
        """None for a policy that is no level."""
        return self.policies.index(policy) if policy in self.policies else None

    def highest_level(self, found: Callable[[ExitPolicy], Disagreement]) -> int:
        """The fastest level that may be used, by what shadow runs found of each: the last one, or the one below the
        first that is proven to be over `max_disagreement` (level 0, where that is the first).

        Proven: the *lower* bound is over the limit. The upper one proves nothing of a level that was hardly used: it
        begins at 1, and measured by it all levels would be closed when the next peak comes.
        """
        limit = self.objective.max_disagreement
        for level, policy in enumerate(self.policies if limit is not None else ()):
            if found(policy).interval[0] > limit:  # type: ignore[operator]
                return max(0, level - 1)
        return len(self.policies) - 1
