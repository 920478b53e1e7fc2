"""The values that the live exit policy is told in: its versions, its state, its history. They decide nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from service.exits.operating_points import Preset
from service.exits.policy import ExitPolicy
from service.policy.goals import Ladder, Objective
from service.policy.observed import Observed

Source = Literal["start", "api", "autopilot"]


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """The policy in force and since when; `updated_at` is ISO 8601 in UTC.

    expected  what calibration measured for it, by name of the figure; None if it was not measured
    ladder    what the autopilot may use; None while it is off
    """

    policy: ExitPolicy
    version: int
    updated_at: str
    updated_by: Source
    expected: Mapping[str, Any] | None
    ladder: Ladder | None = None

    @property
    def objective(self) -> Objective | None:
        """What the autopilot keeps; None while it is off."""
        return self.ladder.objective if self.ladder else None

    @property
    def level(self) -> int | None:
        """Of the policy, on the autopilot's ladder; None where it stands on none."""
        return self.ladder.level_of(self.policy) if self.ladder else None


@dataclass(frozen=True, slots=True)
class PolicyState:
    """A version with all that is known of it.

    in_force       the version; on a dry run, the one that would be in force
    preset         that its policy is; None for any other policy
    highest_level  the fastest level that the autopilot may use just now; None while it is off
    """

    in_force: PolicyVersion
    preset: Preset | None
    observed: Observed
    highest_level: int | None

    @property
    def version(self) -> int:
        """Its number."""
        return self.in_force.version


@dataclass(frozen=True, slots=True)
class PolicyRecord:
    """What is remembered of a version. The model may be another one since, and know its strategy no more.

    parameters  strategy and parameters, as a change takes them
    objective   what the autopilot kept; None while it was off
    """

    parameters: Mapping[str, Any]
    objective: Objective | None = None

    @classmethod
    def of(cls, version: PolicyVersion) -> PolicyRecord:
        """Return what is to be remembered of a version."""
        return cls(version.policy.to_json(), version.objective)


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One change: the version it made, when (ISO 8601 in UTC), and what was before and after it.

    changed_by  who it was, in their own words; of a start from the default, why
    before      None for a start from the default
    """

    version: int
    at: str
    by: Source
    changed_by: str | None
    before: PolicyRecord | None
    after: PolicyRecord
