"""The live exit policy: an immutable value with a version, swapped atomically, kept on disk with its history."""

from __future__ import annotations

import json
import logging
import os
import reprlib
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from service.engine.objective import Ladder, Objective
from service.engine.observed import Observed
from service.engine.sequence import CapturedPolicy
from service.errors import BadInput, EngineFailed, PolicyConflict
from service.exits.assets import ModelAssets
from service.exits.catalog import PolicyCatalog
from service.exits.disagreement import Disagreement
from service.exits.operating_points import GOALS as CALIBRATED_GOALS
from service.exits.operating_points import Calibration
from service.exits.policies.hashee import HashEE
from service.exits.policies.vee import Vee
from service.exits.policy import ExitPolicy
from service.files import write_whole

log = logging.getLogger(__name__)

Source = Literal["start", "api", "autopilot"]
HISTORY_LENGTH = 1_000
HIGHEST_VERSION = 2**53  # a metric must be able to show it
GOALS = (*CALIBRATED_GOALS, "rollback_to")
READ_ONLY = ("version", "updated_at", "updated_by", "expected", "observed")


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """The policy in force and since when; `updated_at` is ISO 8601 in UTC.

    expected  what calibration measured for it, as GET /exit-policy has it; None if it was not measured
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


class Controls:
    """Reads are one attribute access; changes are serialised, written to disk first, then swapped in.

    State file: `exit_policy.json` in the state directory, of one model. At start it wins over the default; a file that
    does not parse or belongs to another model is set aside, and the history says so.
    """

    def __init__(
        self,
        *,
        model: str,
        assets: ModelAssets,
        calibration: Calibration | None = None,
        state_dir: Path,
        now: Callable[[], datetime],
        on_change: Callable[[PolicyVersion], None] = lambda _: None,
    ) -> None:
        """model: name@version; assets, calibration: of the model, None if it has none; now: the wall clock in UTC.

        `on_change` is told of every version put in force.
        """
        self._model = model
        self._calibration = calibration
        self._catalog = calibration.catalog(assets) if calibration else PolicyCatalog(assets)
        self._path = state_dir / "exit_policy.json"
        self._now = now
        self._on_change = on_change
        self._changing = threading.Lock()  # held by a change to its end, writing to disk included
        self._lock = threading.Lock()  # guards the fields below, and never waits for the disk
        self._history: deque[dict[str, Any]] = deque(maxlen=HISTORY_LENGTH)
        self._observed = Observed()
        self._shadows_since = 0  # the version that a person made last, or the one found at start
        self._current = self._load()
        on_change(self._current)

    @property
    def current(self) -> PolicyVersion:
        """The policy in force."""
        return self._current

    def capture(self, override: Mapping[str, Any] | None = None) -> CapturedPolicy:
        """The policy and its version for a request that starts now, with the request's own changes to it.

        Raises BadInput for changes that do not fit the policy in force.
        """
        current = self._current
        if override is None:
            return CapturedPolicy(current.policy, current.version)
        for name in override:
            if name in GOALS or name in READ_ONLY:
                raise BadInput(f"exit_policy.{name} cannot be set for one request; only parameters can")
        return CapturedPolicy(self._catalog.merge(current.policy, override), current.version, True)

    def renew(self, captured: CapturedPolicy, override: Mapping[str, Any] | None) -> CapturedPolicy:
        """Return `captured` while its version is in force, else capture anew. Raises BadInput as `capture` does."""
        return captured if captured.version == self._current.version else self.capture(override)

    def describe(self) -> dict[str, Any]:
        """The policy on the wire, expected beside observed."""
        with self._lock:
            return self._describe(self._current, self._observed)

    @property
    def catalog(self) -> PolicyCatalog:
        """The policies that the model can have."""
        return self._catalog

    def operating_points(self) -> list[dict[str, Any]]:
        """The calibrated front, cheapest first; empty for a model that has not been calibrated."""
        return [point.to_json() for point in self._calibration.points] if self._calibration else []

    def highest_level(self) -> int | None:
        """The fastest level that the autopilot may use just now; None while it is off."""
        with self._lock:
            ladder = self._current.ladder
            return ladder.highest_level(self._observed.disagreement) if ladder else None

    def disagreement(self) -> Disagreement:
        """What shadow runs found of the policy in force."""
        with self._lock:
            return self._observed.disagreement(self._current.policy)

    def history(self) -> list[dict[str, Any]]:
        """Changes, newest first."""
        with self._lock:
            return list(reversed(self._history))

    def observe(self, captured: CapturedPolicy, exit_layer: float) -> None:
        """Count a sequence that left under `captured`; only the live version's own sequences count."""
        with self._lock:
            if captured.version == self._current.version and not captured.is_override:
                self._observed.sequence_left(exit_layer)

    def observe_shadow(self, captured: CapturedPolicy, disagrees: bool) -> None:
        """Count a sequence that left early under `captured` and was run on to full depth."""
        with self._lock:
            if captured.version >= self._shadows_since and not captured.is_override:
                self._observed.shadow_done(captured.policy, disagrees)

    def change(
        self,
        changes: Mapping[str, Any],
        *,
        source: Source,
        changed_by: str | None = None,
        if_version: int | None = None,
        dry_run: bool = False,
    ) -> dict[str, Any]:
        """Apply a PATCH; -> the policy on the wire. Nothing changes when it raises or on a dry run.

        Every change but the autopilot's own switches it off, unless it is the one that sets its objective.

        Raises PolicyConflict when `if_version` is not the version in force, BadInput for anything that cannot be, and
        EngineFailed when the state folder cannot be written.
        """
        with self._changing:
            before = self._current
            if if_version is not None and if_version != before.version:
                raise PolicyConflict(
                    f"If-Match names version {if_version}, but version {before.version} is in force; "
                    "read the policy again and repeat the change"
                )
            policy, ladder = self._resolve(before, changes, source)
            after = self._make_version(policy, before.version + 1, self._timestamp(), source, ladder)
            is_own_move = source == "autopilot"
            observed = Observed(shadows=self._observed.shadows if is_own_move else {})
            if dry_run:
                return self._describe(after, observed)
            entry = self._entry(before, after, changed_by)
            try:
                self._save(after, [*self._history, entry][-HISTORY_LENGTH:])
            except OSError as error:
                log.error("the exit policy was not saved: %s", error)
                raise EngineFailed("the exit policy could not be saved, so nothing was changed; see the log") from error
            with self._lock:
                self._history.append(entry)
                self._observed = observed
                if not is_own_move:
                    self._shadows_since = after.version
                self._current = after
                described = self._describe(after, observed)
            self._on_change(after)
            return described

    def _resolve(
        self, before: PolicyVersion, changes: Mapping[str, Any], source: Source
    ) -> tuple[ExitPolicy, Ladder | None]:
        if "autopilot" not in changes:
            return self._policy(before.policy, changes), before.ladder if source == "autopilot" else None
        if len(changes) > 1:
            raise BadInput(f"given {sorted(changes)}; autopilot stands alone, since it chooses the parameters itself")
        if changes["autopilot"] is None:
            return before.policy, None
        ladder = self._ladder(Objective.merged(before.objective, changes["autopilot"]))
        is_level = before.policy in ladder.policies  # then that is where it goes on from
        return before.policy if is_level else ladder.policies[0], ladder

    def _ladder(self, objective: Objective) -> Ladder:
        if self._calibration is None:
            raise BadInput(self._needs_calibration("autopilot"))
        points = self._calibration.ladder(objective.max_f1_loss)
        policies = tuple(self._catalog.policy(point.parameters) for point in points)
        return Ladder(objective, policies, tuple(point.speedup_latency for point in points))

    def _policy(self, current: ExitPolicy, changes: Mapping[str, Any]) -> ExitPolicy:
        if not changes:
            raise BadInput("the change is empty; send parameters such as tau or patience, or one goal")
        if read_only := sorted(changes.keys() & set(READ_ONLY)):
            raise BadInput(f"{', '.join(read_only)} cannot be set; they are read-only")
        goals = sorted(changes.keys() & set(GOALS))
        if len(goals) > 1 or (goals and len(changes) > 1):
            raise BadInput(f"given {sorted(changes)}; expected parameters, or exactly one goal of {list(GOALS)}")
        if goals == ["rollback_to"]:
            return self._policy_of_version(changes["rollback_to"])
        if goals:
            return self._policy_for_goal(goals[0], changes[goals[0]])
        return self._catalog.merge(current, changes)

    def _policy_for_goal(self, goal: str, wish: object) -> ExitPolicy:
        if self._calibration is None:
            raise BadInput(self._needs_calibration(goal))
        return self._catalog.policy(self._calibration.choose(goal, wish).parameters)

    def _needs_calibration(self, wish: str) -> str:
        return (
            f"{wish} needs calibrated operating points, which model {self._model} has not; "
            "set the strategy's parameters, such as tau and patience, instead"
        )

    def _policy_of_version(self, version: object) -> ExitPolicy:
        known = {entry["version"]: entry["after"] for entry in self._history}
        if type(version) is not int or version not in known:
            raise BadInput(f"rollback_to is {version!r}; versions {min(known)} to {max(known)} are kept")
        return self._recall(known[version])

    def _describe(self, version: PolicyVersion, observed: Observed) -> dict[str, Any]:
        return {
            **version.policy.to_json(),
            "version": version.version,
            "updated_at": version.updated_at,
            "updated_by": version.updated_by,
            "preset": self._calibration.preset_of(version.policy) if self._calibration else None,
            "expected": version.expected,
            "observed": observed.to_json(version.policy, version.updated_at),
            "autopilot": version.ladder
            and {
                **version.ladder.objective.to_json(),
                "level": version.level,
                "highest_level": version.ladder.highest_level(observed.disagreement),
            },
        }

    def _make_version(
        self, policy: ExitPolicy, version: int, updated_at: str, updated_by: Source, ladder: Ladder | None = None
    ) -> PolicyVersion:
        expected = self._calibration.expected(policy) if self._calibration else None
        return PolicyVersion(policy, version, updated_at, updated_by, expected, ladder)

    def _timestamp(self) -> str:
        return self._now().isoformat(timespec="milliseconds")

    def _entry(self, before: PolicyVersion | None, after: PolicyVersion, changed_by: str | None) -> dict[str, Any]:
        return {
            "version": after.version,
            "at": after.updated_at,
            "by": after.updated_by,
            "changed_by": changed_by,
            "before": self._record(before) if before else None,
            "after": self._record(after),
        }

    def _record(self, version: PolicyVersion) -> dict[str, Any]:
        """What is kept of a version: its parameters, and the autopilot's objective while it is on."""
        objective = version.objective
        return {**version.policy.to_json(), **({"autopilot": objective.to_json()} if objective else {})}

    def _recall(self, record: Mapping[str, Any]) -> ExitPolicy:
        """The policy of what was recorded."""
        parameters = dict(record)
        parameters.pop("autopilot", None)
        return self._catalog.policy(parameters)

    def _load(self) -> PolicyVersion:
        """The state file's policy; else the default, with the reason in the history."""
        why = "first start"
        if self._path.exists():
            try:
                state = json.loads(self._path.read_text(encoding="utf-8"))
                if state["model"] == self._model:
                    return self._restore(state)
                why = f"the state file was of {state['model']}"
            except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError, BadInput) as error:
                why = f"the state file was unusable: {error}"
            why = why.encode("utf-8", "backslashreplace").decode()  # whatever the file said, it can be shown
            os.replace(self._path, self._path.with_suffix(".unusable"))
            log.warning("%s; starting from the default policy", why)
        start = self._make_version(self._default(), 1, self._timestamp(), "start")
        self._history.append(self._entry(None, start, why))
        self._save(start, list(self._history))
        return start

    def _default(self) -> ExitPolicy:
        if self._calibration is not None:
            return self._policy_for_goal("preset", "balanced")
        supported = self._catalog.strategies
        return Vee() if Vee.strategy in supported else self._catalog.policy({"strategy": HashEE.strategy})

    def _restore(self, state: Mapping[str, Any]) -> PolicyVersion:
        current, history = state["current"], state["history"]
        policy, wish = self._recall(current["policy"]), current["policy"].get("autopilot")
        _check_history(history, current)
        ladder = None if wish is None else self._ladder(Objective.merged(None, wish))
        version = self._make_version(policy, current["version"], current["updated_at"], current["updated_by"], ladder)
        self._history.extend(history)
        return version

    def _save(self, version: PolicyVersion, history: list[dict[str, Any]]) -> None:
        """Raises OSError, and then the file is as it was."""
        state = {
            "model": self._model,
            "current": {
                "policy": self._record(version),
                "version": version.version,
                "updated_at": version.updated_at,
                "updated_by": version.updated_by,
            },
            "history": history,
        }
        write_whole(self._path, json.dumps(state, indent=1))


def _check_history(history: Any, current: Mapping[str, Any]) -> None:
    """Raise BadInput, LookupError, TypeError or ValueError unless this is a history that leads to `current`."""
    versions = [entry["version"] for entry in history]
    if any(type(version) is not int or not 0 < version < HIGHEST_VERSION for version in versions):
        raise BadInput(f"the history has the versions {reprlib.repr(versions)}; expected integers of at least 1")
    fields = {"version", "at", "by", "changed_by", "before", "after"}
    if versions != sorted(set(versions)) or any(set(entry) != fields for entry in history):
        raise BadInput(f"the history is not in order; expected ascending versions, each with {sorted(fields)}")
    if any(not isinstance(entry["after"], dict) for entry in history):
        raise BadInput("the history has a policy that is no object")
    newest = history[-1]
    in_force = current["policy"], current["version"], current["updated_at"], current["updated_by"]
    if (newest["after"], newest["version"], newest["at"], newest["by"]) != in_force:
        raise BadInput(f"the history ends at version {versions[-1]}, which is not the policy in force")
    json.dumps(history, allow_nan=False, ensure_ascii=False).encode()  # it can be shown
