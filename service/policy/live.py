"""The live exit policy: an immutable value with a version, swapped atomically, kept with its history."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from service.errors import BadInput, EngineFailed, PolicyConflict
from service.exits.catalog import PolicyCatalog
from service.exits.disagreement import Disagreement
from service.exits.operating_points import OperatingPoint
from service.exits.policy import ExitPolicy
from service.policy.captured import CapturedPolicy
from service.policy.goals import Goals, Ladder, Objective
from service.policy.observed import Counts
from service.policy.store import PolicyStore, StateUnusable
from service.policy.versions import HistoryEntry, PolicyRecord, PolicyState, PolicyVersion, Source

log = logging.getLogger(__name__)

HISTORY_LENGTH = 1_000
HIGHEST_VERSION = 2**52  # a version found at start; a metric is a float, exact up to 2**53, so others can follow


class LivePolicy:
    """The live exit policy. Reading it is one attribute access; changes are serialised, and saved before they hold.

    At the start, a saved state takes precedence over the default; a saved state that cannot be used is set aside, and
    the history says so.
    """

    def __init__(
        self,
        goals: Goals,
        store: PolicyStore,
        *,
        now: Callable[[], datetime],
        on_change: Callable[[PolicyVersion], None] = lambda _: None,
    ) -> None:
        """Load the saved state. `goals` and `store` belong to the same model; `now` returns the wall clock in UTC.

        `on_change` is called with every version that comes into force, the first included. Raises OSError if the store
        cannot be used.
        """
        self._goals = goals
        self._store = store
        self._now = now
        self._on_change = on_change
        self._changing = threading.Lock()  # held by a change to its end, saving included
        self._lock = threading.Lock()  # guards the fields below, and never waits for the store
        self._history: tuple[HistoryEntry, ...] = ()  # oldest first
        self._counts = Counts()
        self._shadows_since = 0  # the version that a person made last, or the one found at start
        self._current = self._start()
        on_change(self._current)

    @property
    def current(self) -> PolicyVersion:
        """The policy in force."""
        return self._current

    @property
    def catalog(self) -> PolicyCatalog:
        """The policies that the model can have."""
        return self._goals.catalog

    def capture(self, override: Mapping[str, Any] | None = None) -> CapturedPolicy:
        """Return the policy and its version for a request, with the request's own changes to it.

        Raises BadInput for changes that do not fit the policy in force.
        """
        current = self._current
        if override is None:
            return CapturedPolicy(current.policy, current.version)
        return CapturedPolicy(self._goals.for_one_request(current.policy, override), current.version, is_override=True)

    def renew(self, captured: CapturedPolicy, override: Mapping[str, Any] | None = None) -> CapturedPolicy:
        """Return `captured` itself while its version is in force, else a new capture. Raises BadInput.

        A request is checked when it arrives and decided when it starts; its override is merged again only if the policy
        has changed in between.
        """
        return captured if captured.version == self._current.version else self.capture(override)

    def describe(self) -> PolicyState:
        """Return the policy in force with all that is known of it."""
        with self._lock:
            return self._state(self._current, self._counts)

    def operating_points(self) -> tuple[OperatingPoint, ...]:
        """Return the calibrated front, cheapest first; empty for a model that has not been calibrated."""
        return self._goals.calibration.points if self._goals.calibration else ()

    def highest_level(self) -> int | None:
        """Return the fastest level that the autopilot may use just now; None while it is off."""
        with self._lock:
            ladder = self._current.ladder
            return ladder.highest_level(self._counts.disagreement) if ladder else None

    def disagreement(self) -> Disagreement:
        """Return what shadow runs found of the policy in force."""
        with self._lock:
            return self._counts.disagreement(self._current.policy)

    def history(self) -> list[HistoryEntry]:
        """Return the changes, newest first."""
        return list(reversed(self._history))

    def observe(self, captured: CapturedPolicy, layers_run: float) -> None:
        """Count a sequence that left under `captured`, unless that had an override or is no longer in force."""
        with self._lock:
            if captured.version == self._current.version and not captured.is_override:
                self._counts.sequence_left(layers_run)

    def observe_shadow(self, captured: CapturedPolicy, disagrees: bool) -> None:
        """Count a shadow run of a sequence that left early under `captured`, if no person changed the policy since."""
        with self._lock:
            if captured.version >= self._shadows_since and not captured.is_override:
                self._counts.shadow_done(captured.policy, disagrees)

    def change(
        self,
        changes: Mapping[str, Any],
        *,
        source: Source,
        changed_by: str | None = None,
        if_versions: Collection[int] | None = None,
        dry_run: bool = False,
    ) -> PolicyState:
        """Change the policy in force by parameters, one goal or the autopilot's objective; return the state after that.

        On a dry run, and when it raises, nothing changes. Every change switches the autopilot off, except the
        autopilot's own and the one that sets its objective.

        Raises PolicyConflict if the version in force is none of `if_versions`, BadInput for changes that do not fit,
        and EngineFailed if the change cannot be saved.
        """
        with self._changing:
            before = self._current
            if if_versions is not None and before.version not in if_versions:
                named = ", ".join(map(str, sorted(if_versions)))
                raise PolicyConflict(
                    f"If-Match names version {named}, but version {before.version} is in force; "
                    "read the policy again and repeat the change"
                )
            policy, ladder = self._resolve(before, changes, source)
            after = self._version(policy, before.version + 1, self._timestamp(), source, ladder)
            is_own_move = source == "autopilot"
            counts = Counts(shadows=self._counts.shadows if is_own_move else {})
            if dry_run:
                return self._state(after, counts)
            history = (*self._history, _entry(before, after, changed_by))[-HISTORY_LENGTH:]
            try:
                self._store.save(history)
            except OSError as error:
                log.error("the exit policy was not saved: %s", error)
                raise EngineFailed("the exit policy could not be saved, so nothing was changed; see the log") from error
            with self._lock:
                self._history = history
                self._counts = counts
                if not is_own_move:
                    self._shadows_since = after.version
                self._current = after
                made = self._state(after, counts)
            self._on_change(after)
            record = PolicyRecord.of(after).to_json()
            log.info("policy changed", extra={"data": {"version": after.version, "by": source, "policy": record}})
            return made

    def _resolve(
        self, before: PolicyVersion, changes: Mapping[str, Any], source: Source
    ) -> tuple[ExitPolicy, Ladder | None]:
        if "autopilot" in changes:
            return self._goals.flown(before.policy, before.objective, changes)
        known = {entry.version: entry.after.parameters for entry in self._history}
        policy = self._goals.changed(before.policy, changes, known)
        return policy, before.ladder if source == "autopilot" else None

    def _state(self, version: PolicyVersion, counts: Counts) -> PolicyState:
        return PolicyState(
            in_force=version,
            preset=self._goals.calibration.preset_of(version.policy) if self._goals.calibration else None,
            observed=counts.observed(version.policy, version.updated_at),
            highest_level=version.ladder.highest_level(counts.disagreement) if version.ladder else None,
        )

    def _version(
        self, policy: ExitPolicy, version: int, updated_at: str, updated_by: Source, ladder: Ladder | None = None
    ) -> PolicyVersion:
        expected = self._goals.calibration.expected(policy) if self._goals.calibration else None
        return PolicyVersion(policy, version, updated_at, updated_by, expected, ladder)

    def _timestamp(self) -> str:
        return self._now().isoformat(timespec="milliseconds")

    def _start(self) -> PolicyVersion:
        """Return the saved version; else the default, with the reason in the history."""
        try:
            if kept := self._store.load():
                return self._restore(kept)
            why = "first start"
        except StateUnusable as error:
            why = str(error).encode("utf-8", "backslashreplace").decode()  # so that it can always be shown
            place = self._store.set_aside()
            log.warning("state set aside", extra={"data": {"reason": why, "file": place, "policy": "the default"}})
        start = self._version(self._goals.default(), 1, self._timestamp(), "start")
        self._history = (_entry(None, start, why),)
        self._store.save(self._history)
        return start

    def _restore(self, kept: tuple[HistoryEntry, ...]) -> PolicyVersion:
        """Return the newest saved version. Raises StateUnusable if the model does not allow its policy or objective.

        Versions too high for others to follow, which only an edited file has, are counted anew from 1.
        """
        if kept[-1].version > HIGHEST_VERSION:
            kept = tuple(replace(entry, version=number) for number, entry in enumerate(kept, 1))
        newest, record = kept[-1], kept[-1].after
        try:
            policy = self._goals.catalog.policy(record.parameters)
            ladder = None if record.objective is None else self._goals.ladder(Objective.merged(None, record.objective))
        except BadInput as error:
            raise StateUnusable(f"the state file was unusable: {error}") from error
        self._history = kept[-HISTORY_LENGTH:]
        return self._version(policy, newest.version, newest.at, newest.by, ladder)


def _entry(before: PolicyVersion | None, after: PolicyVersion, changed_by: str | None) -> HistoryEntry:
    return HistoryEntry(
        version=after.version,
        at=after.updated_at,
        by=after.updated_by,
        changed_by=changed_by,
        before=PolicyRecord.of(before) if before else None,
        after=PolicyRecord.of(after),
    )
