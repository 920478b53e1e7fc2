"""What a change of the exit policy may ask for, and the policy that results. Which policy is in force, `live` knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from service.errors import BadInput
from service.exits.assets import ModelAssets
from service.exits.catalog import PolicyCatalog
from service.exits.disagreement import Disagreement
from service.exits.operating_points import GOALS as CALIBRATED_GOALS
from service.exits.operating_points import Calibration
from service.exits.parameters import Number
from service.exits.policies.full_depth import FullDepth
from service.exits.policies.hashee import HashEE
from service.exits.policies.vee import Vee
from service.exits.policy import ExitPolicy

GOALS = (*CALIBRATED_GOALS, "rollback_to")
READ_ONLY = ("version", "updated_at", "updated_by", "expected", "observed")
_OF_AUTOPILOT = {
    "p95_ms": Number(lowest=1.0, highest=60_000.0, meaning="milliseconds from request to answer"),
    "max_f1_loss": Number(lowest=-100.0, highest=100.0, meaning="F1 x 100 below full depth"),
    "max_disagreement": Number(meaning="share of early answers that may differ from full depth's"),
}
READ_ONLY_OF_AUTOPILOT = ("level", "highest_level")
EXAMPLE = '{"p95_ms": 100, "max_f1_loss": 1.0}'


@dataclass(frozen=True, slots=True)
class Objective:
    """What an operator asks of the autopilot, which keeps it by moving along the calibrated operating points.

    p95_ms            95th percentile of the time from a request's arrival to its answer, in milliseconds
    max_f1_loss       F1 x 100 below full depth, as calibration measured it: no point that loses more is ever used
    max_disagreement  share of early leavers, in [0, 1], whose entities may differ from full depth's; None: any share
    """

    p95_ms: float
    max_f1_loss: float
    max_disagreement: float | None = None

    def __post_init__(self) -> None:
        for name, allowed in _OF_AUTOPILOT.items():
            if (value := getattr(self, name)) is not None or name != "max_disagreement":
                allowed.check(f"autopilot.{name}", value)

    @classmethod
    def merged(cls, current: Objective | None, changes: object) -> Objective:
        """Return `current` merged with `changes` (RFC 7396). Raises BadInput for changes that leave it incomplete."""
        if not isinstance(changes, Mapping):
            raise BadInput(f"autopilot is {changes!r}; expected an object such as {EXAMPLE}, or null to switch it off")
        known = [field.name for field in fields(cls)]
        if read_only := sorted(changes.keys() & set(READ_ONLY_OF_AUTOPILOT)):
            raise BadInput(f"autopilot.{', '.join(read_only)} cannot be set; it has {known}")
        if unknown := sorted(changes.keys() - set(known)):
            raise BadInput(f"autopilot has no {', '.join(unknown)}; it has {known}")
        merged = {**(asdict(current) if current else {}), **changes}
        if missing := [name for name in ("p95_ms", "max_f1_loss") if merged.get(name) is None]:
            raise BadInput(f"autopilot needs {' and '.join(missing)}, as in {EXAMPLE}")
        return cls(**merged)


@dataclass(frozen=True, slots=True)
class Ladder:
    """The levels that an objective allows: level 0 is the most accurate policy, every further one is faster.

    speeds  by level: how many times as fast as full depth, as calibration measured it
    """

    objective: Objective
    policies: tuple[ExitPolicy, ...]
    speeds: tuple[float, ...]

    def level_of(self, policy: ExitPolicy) -> int | None:
        """Return the level of a policy, or None if it is not one of the levels."""
        return self.policies.index(policy) if policy in self.policies else None

    def highest_level(self, found: Callable[[ExitPolicy], Disagreement]) -> int:
        """Return the fastest level that may be used; `found` returns what shadow runs found of a level's policy.

        That is the last level, or the level below the first one that is proven to be over `max_disagreement` (level 0
        if that is level 0). A level is proven to be over the limit if its *lower* bound is. The upper bound proves
        nothing of a level that was hardly used: it starts at 1, so all levels would be closed when the next peak comes.
        """
        limit = self.objective.max_disagreement
        for level, policy in enumerate(self.policies if limit is not None else ()):
            if found(policy).interval[0] > limit:  # type: ignore[operator]
                return max(0, level - 1)
        return len(self.policies) - 1


@dataclass(frozen=True, slots=True)
class Goals:
    """What one model (name@version) can be asked for; calibration is None for a model that was not calibrated."""

    model: str
    catalog: PolicyCatalog
    calibration: Calibration | None

    @classmethod
    def of(cls, model: str, assets: ModelAssets, calibration: Calibration | None = None) -> Goals:
        """Return the goals of a model, given its assets for the strategies."""
        return cls(model, calibration.catalog(assets) if calibration else PolicyCatalog(assets), calibration)

    def default(self) -> ExitPolicy:
        """Return the policy that is in force before the first change."""
        if self.calibration is not None:
            return self._policy_for("preset", "balanced")
        supported = self.catalog.strategies
        name = next(kind.strategy for kind in (Vee, HashEE, FullDepth) if kind.strategy in supported)
        return self.catalog.policy({"strategy": name})

    def for_one_request(self, current: ExitPolicy, changes: Mapping[str, Any]) -> ExitPolicy:
        """Return `current` with one request's changes: parameters, or one calibrated goal. Raises BadInput."""
        for name in ("rollback_to", "autopilot"):
            if name in changes:
                raise BadInput(f"exit_policy.{name} cannot be set for one request; parameters or one goal can")
        return self.changed(current, changes, {}) if changes else current

    def changed(
        self, current: ExitPolicy, changes: Mapping[str, Any], known: Mapping[int, Mapping[str, Any]]
    ) -> ExitPolicy:
        """Return `current` changed by parameters or by one goal. Raises BadInput.

        known  strategy and parameters of every version that `rollback_to` may name, by version
        """
        if not changes:
            raise BadInput("the change is empty; send parameters such as tau or patience, or one goal")
        if read_only := sorted(changes.keys() & set(READ_ONLY)):
            raise BadInput(f"{', '.join(read_only)} cannot be set; they are read-only")
        goals = sorted(changes.keys() & set(GOALS))
        if len(goals) > 1 or (goals and len(changes) > 1):
            raise BadInput(f"given {sorted(changes)}; expected parameters, or exactly one goal of {list(GOALS)}")
        if not goals:
            return self.catalog.merge(current, changes)
        goal, wish = goals[0], changes[goals[0]]
        if goal != "rollback_to":
            return self._policy_for(goal, wish)
        if type(wish) is not int or wish not in known:
            raise BadInput(f"rollback_to is {wish!r}; versions {min(known)} to {max(known)} are kept")
        return self.catalog.policy(known[wish])

    def flown(
        self, current: ExitPolicy, objective: Objective | None, changes: Mapping[str, Any]
    ) -> tuple[ExitPolicy, Ladder | None]:
        """Return the policy with which the autopilot starts, and its ladder, or None if the change switches it off.

        The policy is `current` if that is a level of the ladder, else level 0. `objective` is the autopilot's before
        the change; `changes` are merged with it. Raises BadInput.
        """
        if len(changes) > 1:
            raise BadInput(f"given {sorted(changes)}; autopilot stands alone, since it chooses the parameters itself")
        if changes["autopilot"] is None:
            return current, None
        ladder = self.ladder(Objective.merged(objective, changes["autopilot"]))
        return current if current in ladder.policies else ladder.policies[0], ladder

    def ladder(self, objective: Objective) -> Ladder:
        """Return the levels that an objective allows. Raises BadInput if there are none."""
        if self.calibration is None:
            raise BadInput(self._needs_calibration("autopilot"))
        points = self.calibration.ladder(objective.max_f1_loss)
        policies = tuple(self.catalog.policy(point.parameters) for point in points)
        return Ladder(objective, policies, tuple(point.speedup_latency for point in points))

    def _policy_for(self, goal: str, wish: object) -> ExitPolicy:
        if self.calibration is None:
            raise BadInput(self._needs_calibration(goal))
        return self.catalog.policy(self.calibration.choose(goal, wish).parameters)

    def _needs_calibration(self, wish: str) -> str:
        return (
            f"{wish} needs calibrated operating points, which model {self.model} has not; "
            "set the strategy's parameters, such as tau and patience, instead"
        )
