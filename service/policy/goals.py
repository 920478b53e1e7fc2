"""What a change of the exit policy may ask for, and the policy that results. Which policy is in force, `live` knows."""

from __future__ import annotations

import reprlib
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Any

from service.errors import BadInput
from service.exits.assets import ModelAssets
from service.exits.catalog import PolicyCatalog
from service.exits.disagreement import Disagreement
from service.exits.operating_points import GOALS as CALIBRATED_GOALS
from service.exits.operating_points import Calibration, OperatingPoint
from service.exits.parameters import Number
from service.exits.policies import STRATEGIES
from service.exits.policies.full_depth import FullDepth
from service.exits.policies.hashee import HashEE
from service.exits.policies.vee import Vee
from service.exits.policy import ExitPolicy
from service.policy.promised import EXAMPLE_OF_LOSS, PromiseGoal
from service.policy.traffic_fits import TrafficFits

GOALS = (*CALIBRATED_GOALS, "rollback_to")
OF_PROMISE = ("max_disagreement", "confidence", "on")
TRAFFIC = "traffic"  # where a promise is kept; what the goals of a calibration say holds for its dev set
READ_ONLY = ("version", "updated_at", "updated_by", "expected", "observed", "promise")
_OF_AUTOPILOT = {
    "p95_ms": Number(lowest=1.0, highest=60_000.0, meaning="milliseconds from request to answer"),
    "max_f1_loss": Number(lowest=-100.0, highest=100.0, meaning="F1 x 100 below full depth"),
    "max_disagreement": Number(meaning="share of early answers that may differ from full depth's"),
}
READ_ONLY_OF_AUTOPILOT = ("level", "highest_level")
EXAMPLE = '{"p95_ms": 100, "max_f1_loss": 1.0}'
EXAMPLE_CERTIFIED = '{"p95_ms": 100, "max_f1_loss": 1.0, "max_disagreement": 0.02, "certified": true}'


@dataclass(frozen=True, slots=True)
class Objective:
    """What an operator asks of the autopilot, which keeps it by moving along the calibrated operating points.

    p95_ms            95th percentile of the time from a request's arrival to its answer, in milliseconds
    max_f1_loss       F1 x 100 below full depth, as calibration measured it: no point that loses more is ever used
    max_disagreement  share of early leavers, in [0, 1], whose entities may differ from full depth's; None: any share.
                      With `certified`, it is what is promised: see PromiseGoal
    certified         whether levels may be used only while they are certified, and full depth otherwise
    """

    p95_ms: float
    max_f1_loss: float
    max_disagreement: float | None = None
    certified: bool = False

    def __post_init__(self) -> None:
        if type(self.certified) is not bool:
            raise BadInput(f"autopilot.certified is {self.certified!r}; expected true or false")
        for name, allowed in _OF_AUTOPILOT.items():
            if (value := getattr(self, name)) is not None or name != "max_disagreement":
                allowed.check(f"autopilot.{name}", value)
        if self.certified and self.max_disagreement is None:
            raise BadInput(f"autopilot.certified needs max_disagreement, which is promised; as in {EXAMPLE_CERTIFIED}")
        _ = self.promise  # raises BadInput for what cannot be promised

    @property
    def promise(self) -> PromiseGoal | None:
        """What a level must be certified for; None if none need be."""
        return PromiseGoal(self.max_disagreement) if self.certified and self.max_disagreement is not None else None

    @classmethod
    def merged(cls, current: Objective | None, changes: object) -> Objective:
        """Return `current` merged with `changes` (RFC 7396). Raises BadInput for changes that leave it incomplete."""
        if not isinstance(changes, Mapping):
            given = reprlib.repr(changes)
            raise BadInput(f"autopilot is {given}; expected an object such as {EXAMPLE}, or null to switch it off")
        _check_kinds(changes, "autopilot.")
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

    def highest_level(self, found: Callable[[ExitPolicy], Disagreement], certified: Collection[ExitPolicy] = ()) -> int:
        """Return the fastest level that may be used.

        found      returns what shadow runs found of a level's policy
        certified  the policies that are certified for the promise of the objective
        Where levels must be certified, it is the last one that is; level 0 is full depth, which needs no proof. Else
        it is the last level, or the level below the first one that is proven to be over `max_disagreement` (level 0
        if that is level 0). A level is proven to be over the limit if its *lower* bound is. The upper bound proves
        nothing of a level that was hardly used: it starts at 1, so all levels would be closed when the next peak comes.
        """
        if self.objective.certified:
            return max([0, *(level for level, policy in enumerate(self.policies) if policy in certified)])
        limit = self.objective.max_disagreement
        for level, policy in enumerate(self.policies if limit is not None else ()):
            if found(policy).interval[0] > limit:  # type: ignore[operator]
                return max(0, level - 1)
        return len(self.policies) - 1


@dataclass(frozen=True, slots=True)
class Goals:
    """What one model (name@version) can be asked for.

    calibration  None for a model that was not calibrated
    is_sampled   whether the traffic is sampled, without which nothing can be certified
    fits         operating points that were fitted to the traffic
    """

    model: str
    catalog: PolicyCatalog
    calibration: Calibration | None
    is_sampled: bool = True
    fits: TrafficFits = field(default_factory=TrafficFits)

    @classmethod
    def of(
        cls, model: str, assets: ModelAssets, calibration: Calibration | None = None, *, is_sampled: bool = True
    ) -> Goals:
        """Return the goals of a model, given its assets for the strategies."""
        catalog = calibration.catalog(assets) if calibration else PolicyCatalog(assets)
        return cls(model, catalog, calibration, is_sampled)

    def with_fits(self, fits: TrafficFits) -> Goals:
        """Return the goals with other fits to the traffic in place of those that there are."""
        return replace(self, catalog=fits.catalog(self.catalog), fits=fits)

    def expected(self, policy: ExitPolicy) -> dict[str, Any] | None:
        """Return what was measured for exactly this policy, or None if it was not measured."""
        of_calibration = self.calibration.expected(policy) if self.calibration else None
        return of_calibration or self.fits.expected(policy)

    def default(self) -> ExitPolicy:
        """Return the policy that is in force before the first change."""
        if self.calibration is not None:
            return self._policy_for("preset", "balanced")
        supported = self.catalog.strategies
        name = next(kind.strategy for kind in (Vee, HashEE, FullDepth) if kind.strategy in supported)
        return self.catalog.policy({"strategy": name})

    def for_one_request(self, current: ExitPolicy, changes: Mapping[str, Any]) -> ExitPolicy:
        """Return `current` with one request's changes: parameters, or one calibrated goal. Raises BadInput."""
        for name in ("rollback_to", "autopilot", *OF_PROMISE):
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
        if goals == ["rollback_to"]:
            wish = changes["rollback_to"]
            if type(wish) is not int or wish not in known:
                given = reprlib.repr(wish)
                raise BadInput(f"rollback_to is {given}; versions {min(known)} to {max(known)} are kept")
            return self.catalog.policy(known[wish])
        if goals:
            return self._policy_for(goals[0], changes[goals[0]])
        _check_kinds(changes)
        try:
            return self.catalog.merge(current, changes)
        except BadInput as error:
            if told := [f"the goal nearest to {name} is {goal}" for name in changes if (goal := _nearest_goal(name))]:
                raise BadInput("; ".join([str(error), *told])) from error
            raise

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
        if ladder.objective.certified:
            self._check_sampled()
        return current if current in ladder.policies else ladder.policies[0], ladder

    def ladder(self, objective: Objective) -> Ladder:
        """Return the levels that an objective allows. Raises BadInput if there are none."""
        if self.calibration is None:
            raise BadInput(self._needs_calibration("autopilot"))
        if objective.certified:
            allowed = self._points_to_certify()
            if self.fits.current is not None:  # then full depth alone may be left
                allowed = tuple(point for point in allowed if point.f1_loss <= objective.max_f1_loss)
            tested = replace(self.calibration, points=allowed).ladder(objective.max_f1_loss) if allowed else ()
            points = tuple(point for point in tested if point.speedup_latency > 1)
        else:
            points = self.calibration.ladder(objective.max_f1_loss)
        policies = [self.catalog.policy(point.parameters) for point in points]
        speeds = [point.speedup_latency for point in points]
        if objective.certified:
            policies, speeds = [self.full_depth(), *policies], [1.0, *speeds]
        return Ladder(objective, tuple(policies), tuple(speeds))

    def promised(
        self, current: PromiseGoal | None, changes: Mapping[str, Any], gold_f1: float | None = None
    ) -> PromiseGoal | None:
        """Return the promise that a change asks for, merged with the one in force; None if it ends that one.

        gold_f1  F1 x 100 of full depth that texts with their right entities have shown at least; without it, what
                 calibration measured is taken for it where a loss of F1 is promised
        Raises BadInput.
        """
        strategy = changes.get("strategy")
        by_word = STRATEGIES.get(strategy) if isinstance(strategy, str) else None
        if by_word is not None and not by_word.is_replayable:
            raise BadInput(
                f"strategy is {by_word.strategy!r}, whose words halt one by one; a run to full depth does not tell "
                "what it would have answered, so nothing can be certified of it: leave it out, and the service chooses "
                "among its operating points by sentence"
            )
        if others := sorted(changes.keys() - {*OF_PROMISE, *(["max_f1_loss"] if "on" in changes else [])}):
            raise BadInput(
                f"given {others} beside {sorted(changes.keys() & set(OF_PROMISE))}; a promise stands alone, since the "
                "service chooses the parameters itself"
            )
        _check_kinds(changes)
        if changes.get("max_disagreement", 0) is None:
            return None
        self._points_to_certify()
        if "on" in changes:
            changes = self._in_disagreement(changes, gold_f1)
        elif "max_disagreement" in changes:
            changes = {**changes, "max_f1_loss": None, "full_f1": None}
        goal = PromiseGoal.merged(current, changes)
        self._check_sampled()
        return goal

    def _in_disagreement(self, changes: Mapping[str, Any], gold_f1: float | None) -> dict[str, Any]:
        """Return a change that asks for a loss of F1 as one that asks for a disagreement. Raises BadInput."""
        if changes["on"] != TRAFFIC:
            raise BadInput(f"on is {changes['on']!r}; expected {TRAFFIC!r}, as in {EXAMPLE_OF_LOSS}")
        if "max_f1_loss" not in changes or "max_disagreement" in changes:
            raise BadInput(f"given {sorted(changes)}; on stands beside max_f1_loss, as in {EXAMPLE_OF_LOSS}")
        calibration = self.calibration
        assert calibration is not None, "there would be no points to certify"
        wish = PromiseGoal.of_loss(changes["max_f1_loss"], calibration.full_f1 if gold_f1 is None else gold_f1)
        return {**wish, **({"confidence": changes["confidence"]} if "confidence" in changes else {})}

    def full_depth(self) -> ExitPolicy:
        """Return the policy by which nobody leaves early: it keeps any promise."""
        return self.catalog.policy({"strategy": FullDepth.strategy})

    def levels_to_certify(self) -> tuple[ExitPolicy, ...]:
        """Return the operating points that are tested for a promise, the safest first; none if nothing can be.

        Those that were fitted to the traffic are, where there are any in force.
        """
        return tuple(self.catalog.policy(point.parameters) for point in self._tested())

    def _tested(self) -> tuple[OperatingPoint, ...]:
        if (fit := self.fits.current) is not None:
            return tuple(sorted(fit.points, key=lambda point: -point.average_exit_layer))
        return _points_of_one_kind(self.calibration, self.catalog) if self.calibration else ()

    def _points_to_certify(self) -> tuple[OperatingPoint, ...]:
        """Return their points. Raises BadInput if there are none."""
        if self.calibration is None:
            raise BadInput(self._needs_calibration("a promise of agreement"))
        if not (points := self._tested()):
            raise BadInput(
                f"model {self.model} has no operating points of a strategy by sentence; where words halt one by one, a "
                "run to full depth tells nothing of them, so nothing can be certified: choose a policy by hand"
            )
        return points

    def _check_sampled(self) -> None:
        if not self.is_sampled:
            raise BadInput(
                "a promise of agreement is proven on samples of the traffic, and NER_SAMPLE_FRACTION is 0, or unset "
                "while NER_SHADOW_FRACTION is 0; start the server with a share to sample, such as 0.01"
            )

    def _policy_for(self, goal: str, wish: object) -> ExitPolicy:
        if self.calibration is None:
            raise BadInput(self._needs_calibration(goal))
        return self.catalog.policy(self.calibration.choose(goal, wish).parameters)

    def _needs_calibration(self, wish: str) -> str:
        return (
            f"{wish} needs calibrated operating points, which model {self.model} has not; "
            "set the strategy's parameters, such as tau and patience, instead"
        )


def _nearest_goal(name: str) -> str | None:
    """Return the goal that a name is a misspelling of; None for a parameter's name, and where no goal is like it."""
    if any(name in strategy.parameters() for strategy in STRATEGIES.values()):
        return None
    return next(iter(get_close_matches(name, (*GOALS, "autopilot", "max_disagreement"), n=1)), None)


def _check_kinds(changes: Mapping[str, Any], of: str = "") -> None:
    """Raise BadInput for a value that is a list or an object, however large and deep it is: nothing but the autopilot
    takes one. `of`: what stands before the names of values."""
    for name, value in changes.items():
        if isinstance(value, Mapping | list) and name != "autopilot":
            kind = "a list" if isinstance(value, list) else "an object"
            raise BadInput(f"{of}{name} is {kind}; expected a number, a text, true, false or null")


def _points_of_one_kind(calibration: Calibration, catalog: PolicyCatalog) -> tuple[OperatingPoint, ...]:
    """Return the largest part of the front whose policies see the same and only decide differently, the safest first.

    Such as points of the learned rule with one deepest exit: there a faster point leaves nowhere later than a safer
    one, so hardly any traffic turns the order round. Among equally large parts, it is that of the preset `balanced`.
    """
    kinds: dict[Hashable, list[OperatingPoint]] = defaultdict(list)
    for point in calibration.points:
        policy = catalog.policy(point.parameters)
        if policy.is_replayable:
            kinds[policy.kind(catalog.model.num_layers)].append(point)
    chosen = max(kinds.values(), key=lambda kind: (len(kind), any(p.preset == "balanced" for p in kind)), default=[])
    return tuple(sorted(chosen, key=lambda point: -point.average_exit_layer))
