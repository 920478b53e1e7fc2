"""The values that describe the live exit policy: its versions, its state, its history. They decide nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from service.exits.operating_points import Preset
from service.exits.policy import ExitPolicy
from service.policy.goals import Ladder, Objective
from service.policy.observed import Observed
from service.policy.promised import PromiseGoal

Source = Literal["start", "api", "autopilot", "promise"]
OWN_MOVES: tuple[Source, ...] = ("autopilot", "promise")  # by which the service keeps what a person asked for

HISTORY_LENGTH = 1_000
HIGHEST_VERSION = 2**52  # that is taken from a store; a metric is a float, exact up to 2**53, so others can follow


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """One version of the live policy.

    updated_at   when it came into force, ISO 8601 in UTC
    expected     what calibration measured for the policy, by name of the figure; None if it was not measured
    ladder       the levels that the autopilot may use; None while it is off
    local_moves  how often this replica has moved by itself under the version; 0 where a move is a version
    promise      what the service is to promise, by serving the fastest certified level; None if nothing
    """

    policy: ExitPolicy
    version: int
    updated_at: str
    updated_by: Source
    expected: Mapping[str, Any] | None
    ladder: Ladder | None = None
    local_moves: int = 0
    promise: PromiseGoal | None = None

    @property
    def to_certify(self) -> PromiseGoal | None:
        """What levels have to be certified for, by the promise or by the autopilot's objective; None for nothing."""
        return self.promise or (self.objective.promise if self.objective else None)

    @property
    def objective(self) -> Objective | None:
        """The objective that the autopilot keeps; None while it is off."""
        return self.ladder.objective if self.ladder else None

    @property
    def level(self) -> int | None:
        """The policy's level on the autopilot's ladder; None if it is no level, or while the autopilot is off."""
        return self.ladder.level_of(self.policy) if self.ladder else None


@dataclass(frozen=True, slots=True)
class PolicyState:
    """A version with all that is known of it.

    in_force       the version; on a dry run, the version that would be in force
    preset         the preset that has its policy; None if none has
    observed       what has happened under it
    highest_level  the fastest level that the autopilot may use at the moment; None while it is off
    is_certified   whether its policy is certified just now for what is promised; None if nothing is
    """

    in_force: PolicyVersion
    preset: Preset | None
    observed: Observed
    highest_level: int | None
    is_certified: bool | None = None

    @property
    def version(self) -> int:
        """The number of the version."""
        return self.in_force.version


@dataclass(frozen=True, slots=True)
class PolicyRecord:
    """What the history keeps of a version. The model may have changed since then, and no longer know its strategy.

    parameters  strategy and parameters, as a change takes them
    objective   the autopilot's objective as it was recorded; None while it was off
    promise     what was to be promised, likewise
    """

    parameters: Mapping[str, Any]
    objective: Mapping[str, Any] | None = None
    promise: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, version: PolicyVersion) -> PolicyRecord:
        """Return the record of a version."""
        objective, promise = version.objective, version.promise
        return cls(
            version.policy.to_json(),
            asdict(objective) if objective else None,
            promise.to_json() if promise else None,
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as it is written, in a state file and in an answer."""
        asked = {"autopilot": self.objective, "promise": self.promise}
        return {**self.parameters, **{name: value for name, value in asked.items() if value}}


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One change: the version that it made, when (ISO 8601 in UTC), and the policy before and after it.

    changed_by  who made the change, in their own words; for a start from the default and a move of the promise, why
    before      None for a start from the default
    """

    version: int
    at: str
    by: Source
    changed_by: str | None
    before: PolicyRecord | None
    after: PolicyRecord
