"""The live exit policy: an immutable value with a version, swapped atomically, kept with its history."""

from __future__ import annotations

import logging
import threading
import time
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
from service.policy.goals import OF_PROMISE, Goals, Ladder, Objective
from service.policy.observed import Counts
from service.policy.promised import Certified, PromiseGoal
from service.policy.store import PolicyStore, PolicyStoreDown, StateUnusable, StoreMovedOn
from service.policy.traffic_fits import TrafficFits
from service.policy.versions import (
    HIGHEST_VERSION,
    HISTORY_LENGTH,
    OWN_MOVES,
    HistoryEntry,
    PolicyRecord,
    PolicyState,
    PolicyVersion,
    Source,
)

log = logging.getLogger(__name__)

LONGEST_TRY_S = 5.0  # of a change that others forestall; each time one of them has got through


class LivePolicy:
    """The live exit policy. Reading it is one attribute access; changes are serialised, and saved before they hold.

    At the start, a saved state takes precedence over the default; a saved state that cannot be used is set aside, and
    the history says so.

    Where replicas share the store, `follow` brings this one and the store to the same version, the higher of the two,
    and a change begins with that. Nothing else waits for the store, and the version in force never goes back: while the
    store is down, or has something that cannot be used here, the policy in force stays and changes are refused. A move
    of the autopilot, or of what keeps a promise, is then no version but a matter of this replica: it has a queue and
    samples of its own.
    """

    def __init__(
        self,
        goals: Goals,
        store: PolicyStore,
        *,
        now: Callable[[], datetime],
        on_change: Callable[[PolicyVersion], None] = lambda _: None,
        on_store: Callable[[bool], None] = lambda _: None,
    ) -> None:
        """Load the saved state. `goals` and `store` belong to the same model; `now` returns the wall clock in UTC.

        `on_change` is called with every version that comes into force, the first included, and `on_store` with whether
        the store could be used; both must return at once. Raises OSError or PolicyStoreDown if it cannot be.
        """
        self._goals = goals
        self._store = store
        self._now = now
        self._on_change = on_change
        self._on_store = on_store
        self._store_fault: str | None = None  # why the store could not be used the last time; None if it could
        self._changing = threading.Lock()  # held by a change to its end, saving included
        self._lock = threading.Lock()  # guards the fields below, and never waits for the store
        self._history: tuple[HistoryEntry, ...] = ()  # oldest first
        self._counts = Counts()
        self._certified: Certified | None = None
        self._gold_f1: float | None = None
        self._shadows_since = 0  # the version that a person made last, or the one found at start
        self._current = self._start_among_others()
        on_change(self._current)
        on_store(True)
        if store.is_shared:
            self.follow()  # it may have been the copy that was loaded

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
            return CapturedPolicy(current.policy, current.version, local_moves=current.local_moves)
        policy = self._goals.for_one_request(current.policy, override)
        return CapturedPolicy(policy, current.version, is_override=True, local_moves=current.local_moves)

    def renew(self, captured: CapturedPolicy, override: Mapping[str, Any] | None = None) -> CapturedPolicy:
        """Return `captured` itself while its version is in force, else a new capture. Raises BadInput.

        A request is checked when it arrives and decided when it starts; its override is merged again only if the policy
        has changed in between.
        """
        return captured if _is_of(captured, self._current) else self.capture(override)

    def describe(self) -> PolicyState:
        """Return the policy in force with all that is known of it."""
        with self._lock:
            return self._state(self._current, self._counts)

    def operating_points(self) -> tuple[OperatingPoint, ...]:
        """Return the calibrated front, cheapest first; empty for a model that has not been calibrated."""
        return self._goals.calibration.points if self._goals.calibration else ()

    def levels(self) -> tuple[ExitPolicy, ...]:
        """Return the policies of all operating points: the model's own, and those fitted to the traffic in force."""
        fit = self.fits.current
        points = (*self.operating_points(), *(fit.points if fit else ()))
        return tuple(self.catalog.policy(point.parameters) for point in points)

    @property
    def fits(self) -> TrafficFits:
        """The operating points that were fitted to the traffic."""
        return self._goals.fits

    def set_fits(self, fits: TrafficFits) -> None:
        """Offer other operating points that were fitted to the traffic from now on. The policy in force stays.

        An autopilot of certified levels goes on with the new ones.
        """
        with self._lock:
            self._goals = self._goals.with_fits(fits)
            objective = self._current.objective
            if objective is not None and objective.certified:
                self._current = replace(self._current, ladder=self._goals.ladder(objective))

    def highest_level(self) -> int | None:
        """Return the fastest level that the autopilot may use just now; None while it is off."""
        with self._lock:
            ladder = self._current.ladder
            return self._highest_level(ladder, self._counts) if ladder else None

    def set_certified(self, certified: Certified | None) -> None:
        """Take note of the levels that are certified from now on; None if nothing is tested."""
        with self._lock:
            self._certified = certified

    def set_gold_f1(self, least: float | None) -> None:
        """Take note of what full depth's F1 x 100 on the traffic is at least; None if too few labels have been sent.

        A promise of a loss that is asked for from now on is worked out with it; one in force stays as it is.
        """
        self._gold_f1 = least

    def levels_to_certify(self) -> tuple[ExitPolicy, ...]:
        """Return the operating points that are tested for a promise, the safest first; none if nothing can be."""
        return self._goals.levels_to_certify()

    def full_depth(self) -> ExitPolicy:
        """Return the policy that keeps any promise."""
        return self._goals.full_depth()

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
            if _is_of(captured, self._current) and not captured.is_override:
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
        """Change the policy in force by parameters, a goal, a promise or the autopilot's objective; return the state.

        On a dry run, and when it raises, nothing changes. Every change switches the autopilot off and ends a promise,
        except moves of their own and the one that sets the objective, or the promise.

        Raises PolicyConflict if the version in force is none of `if_versions`, BadInput for changes that do not fit,
        EngineFailed if the change cannot be saved, and PolicyStoreDown if the store that replicas share is away.
        """
        if source in OWN_MOVES and self._store.is_shared:
            return self._move_here(changes, source, changed_by, if_versions)
        meets = self._store.is_shared and not dry_run
        if meets and self._store_fault is not None:  # `follow` finds out when that is over; nobody else waits for it
            raise _refused(self._store_fault)
        with self._changing:
            give_up = time.monotonic() + LONGEST_TRY_S
            while True:
                try:
                    if meets:
                        self._meet()
                    return self._change(changes, source, changed_by, if_versions, dry_run)
                except StoreMovedOn as error:
                    if time.monotonic() > give_up:
                        raise _refused(f"others were faster for {LONGEST_TRY_S} s: {error}") from error
                except PolicyStoreDown as error:
                    self._note_store(str(error))
                    raise _refused(str(error)) from error

    def follow(self) -> None:
        """Bring this replica and the store to the same version; note whether the store can be used."""
        with self._changing:
            try:
                self._meet()
            except StoreMovedOn:
                return  # and the next time it is as it was found, or further
            except PolicyStoreDown as error:
                self._note_store(str(error))
            else:
                self._note_store(None)

    def _change(
        self,
        changes: Mapping[str, Any],
        source: Source,
        changed_by: str | None,
        if_versions: Collection[int] | None,
        dry_run: bool,
    ) -> PolicyState:
        before = self._current
        if if_versions is not None:
            _check_match(before.version, if_versions)
        after = self._resolve(before, before.version + 1, changes, source)
        is_own_move = source in OWN_MOVES
        counts = Counts(shadows=self._counts.shadows if is_own_move else {})
        if dry_run:
            return self._state(after, counts)
        history = (*self._history, _entry(self._history[-1].after, after, changed_by))[-HISTORY_LENGTH:]
        try:
            self._store.save(history)
        except OSError as error:
            self._note_store(str(error))
            raise EngineFailed("the exit policy could not be saved, so nothing was changed; see the log") from error
        self._note_store(None)
        since = None if is_own_move else after.version
        return self._put_in_force(after, history, counts, since, changed_by if is_own_move else None)

    def _move_here(
        self, changes: Mapping[str, Any], source: Source, why: str | None, if_versions: Collection[int] | None
    ) -> PolicyState:
        """Make a move of this replica that is no version. Raises PolicyConflict and BadInput, as a change does."""
        with self._lock:  # and so it never waits for the store
            before = self._current
            if if_versions is not None:
                _check_match(before.version, if_versions)
            after = self._resolve(before, before.version, changes, source)
            after = replace(after, local_moves=before.local_moves + 1)
            made = self._swap(after, self._history, Counts(shadows=self._counts.shadows), since=None)
        _log(after, why)
        return made

    def _put_in_force(
        self,
        after: PolicyVersion,
        history: tuple[HistoryEntry, ...],
        counts: Counts,
        since: int | None,
        why: str | None = None,
    ) -> PolicyState:
        with self._lock:
            made = self._swap(after, history, counts, since)
        _log(after, why)
        return made

    def _swap(
        self, after: PolicyVersion, history: tuple[HistoryEntry, ...], counts: Counts, since: int | None
    ) -> PolicyState:
        """Put a version in force; `_lock` is held. Shadow runs count from the version `since`; None: as before."""
        self._history = history
        self._counts = counts
        self._shadows_since = self._shadows_since if since is None else since
        self._current = after
        self._on_change(after)
        return self._state(after, counts)

    def _meet(self) -> None:
        """Bring this replica and the store to the same version, the higher of the two; `_changing` is held.

        Raises PolicyStoreDown, and StoreMovedOn if somebody else was faster.
        """
        mine = self._history[-1]
        try:
            found = self._store.newest()
            if found == mine:
                return
            if found is not None and found.version >= mine.version:
                self._take_over(self._store.load())
                return
            why = None if found is None or found in self._history else f"another version {found.version} was found"
        except StateUnusable as error:
            why = str(error)
        if why is not None:
            place = self._store.set_aside()
            log.warning("state set aside", extra={"data": {"reason": why, "file": place, "policy": "the one in force"}})
        self._store.save(self._history)
        log.warning("policy store was behind", extra={"data": {"version": mine.version}})

    def _take_over(self, history: tuple[HistoryEntry, ...]) -> None:
        """Put the newest version of the store in force. Raises PolicyStoreDown if it cannot be used here.

        Two replicas that did not see the same store may both have made a version of this number. The store's policy
        holds then, under the next number, so that nobody ever changes the policy without changing the version.
        """
        mine = self._history[-1]
        if not history or history[-1].version < mine.version:
            raise StoreMovedOn("the store has gone back since it was read")
        newest = history[-1]
        if newest.version - mine.version < HISTORY_LENGTH and mine not in history:
            given_up = {"version": mine.version, "policy": mine.after.to_json(), "for": newest.version}
            log.warning("version given up", extra={"data": given_up})
        if newest.version == mine.version and newest.after == mine.after:
            with self._lock:
                self._history = history
            return
        if newest.version == mine.version:
            why = f"there were two versions {newest.version}; this one is the store's"
            met = HistoryEntry(newest.version + 1, self._timestamp(), newest.by, why, newest.after, newest.after)
            history = (*history, met)[-HISTORY_LENGTH:]
            version = self._restored(history[-1])
            self._store.save(history)
        else:
            version = self._restored(newest)
        self._put_in_force(version, history, Counts(), since=version.version)

    def _note_store(self, fault: str | None) -> None:
        """Note why the store could not be used, None if it could; log what is new."""
        before, self._store_fault = self._store_fault, fault
        if fault is None and before is not None:
            log.info("policy store is back")
        elif fault is not None and fault != before:
            log.error("the exit policy was not saved, or could not be read: %s", fault)
        self._on_store(fault is None)

    def _resolve(self, before: PolicyVersion, number: int, changes: Mapping[str, Any], source: Source) -> PolicyVersion:
        """Return the version that a change makes of `before`. Raises BadInput."""
        ladder, promise = (before.ladder, before.promise) if source in OWN_MOVES else (None, None)
        if changes.keys() & set(OF_PROMISE):
            promise = self._goals.promised(before.promise, changes, self._gold_f1)
            policy = before.policy if promise is None else self._fastest(promise)
        elif "autopilot" in changes:
            policy, ladder = self._goals.flown(before.policy, before.objective, changes)
            if ladder is not None and ladder.objective.certified:
                highest = self._highest_level(ladder, self._counts)
                policy = ladder.policies[min(highest, ladder.policies.index(policy))]
        else:
            known = {entry.version: entry.after.parameters for entry in self._history}
            policy = self._goals.changed(before.policy, changes, known)
        return self._version(policy, number, self._timestamp(), source, ladder, promise)

    def _certified_for(self, goal: PromiseGoal | None) -> tuple[ExitPolicy, ...]:
        """Return the levels that are certified just now for a goal; none if another one is tested."""
        certified = self._certified
        return certified.levels if certified is not None and certified.goal == goal else ()

    def _fastest(self, goal: PromiseGoal) -> ExitPolicy:
        return (self._goals.full_depth(), *self._certified_for(goal))[-1]

    def _highest_level(self, ladder: Ladder, counts: Counts) -> int:
        return ladder.highest_level(counts.disagreement, self._certified_for(ladder.objective.promise))

    def _state(self, version: PolicyVersion, counts: Counts) -> PolicyState:
        return PolicyState(
            in_force=version,
            preset=self._goals.calibration.preset_of(version.policy) if self._goals.calibration else None,
            observed=counts.observed(version.policy, version.updated_at),
            highest_level=self._highest_level(version.ladder, counts) if version.ladder else None,
            is_certified=self._is_certified(version),
        )

    def _is_certified(self, version: PolicyVersion) -> bool | None:
        if (goal := version.to_certify) is None:
            return None
        return version.policy in (self._goals.full_depth(), *self._certified_for(goal))

    def _version(
        self,
        policy: ExitPolicy,
        version: int,
        updated_at: str,
        updated_by: Source,
        ladder: Ladder | None = None,
        promise: PromiseGoal | None = None,
    ) -> PolicyVersion:
        expected = self._goals.expected(policy)
        return PolicyVersion(policy, version, updated_at, updated_by, expected, ladder, promise=promise)

    def _timestamp(self) -> str:
        return self._now().isoformat(timespec="milliseconds")

    def _start_among_others(self) -> PolicyVersion:
        while True:
            try:
                return self._start()
            except StoreMovedOn:  # and so there is something to start from now
                continue

    def _start(self) -> PolicyVersion:
        """Return the saved version; else the default, with the reason in the history.

        Raises StoreMovedOn if another replica has just made its first start.
        """
        try:
            if kept := self._store.load():
                if kept[-1].version > HIGHEST_VERSION:  # which only an edited file has; others could not follow
                    kept = tuple(replace(entry, version=number) for number, entry in enumerate(kept, 1))
                version = self._restored(kept[-1])
                self._history = kept[-HISTORY_LENGTH:]
                return version
            why = "first start"
        except StateUnusable as error:
            why = str(error).encode("utf-8", "backslashreplace").decode()  # so that it can always be shown
            place = self._store.set_aside()
            log.warning("state set aside", extra={"data": {"reason": why, "file": place, "policy": "the default"}})
        start = self._version(self._goals.default(), 1, self._timestamp(), "start")
        self._history = (_entry(None, start, why),)
        self._store.save(self._history)
        return start

    def _restored(self, newest: HistoryEntry) -> PolicyVersion:
        """Return the version of an entry that a store keeps.

        If the model does not allow its policy or objective, raises StateUnusable, and PolicyStoreDown where replicas
        share the store: others may well be able to use it.
        """
        record = newest.after
        try:
            policy = self._goals.catalog.policy(record.parameters)
            ladder = None if record.objective is None else self._goals.ladder(Objective.merged(None, record.objective))
            promise = None if record.promise is None else PromiseGoal.merged(None, record.promise)
        except BadInput as error:
            if self._store.is_shared:
                raise PolicyStoreDown(f"version {newest.version} in the store cannot be used here: {error}") from error
            raise StateUnusable(f"the state file was unusable: {error}") from error
        return self._version(policy, newest.version, newest.at, newest.by, ladder, promise)


def _log(made: PolicyVersion, why: str | None) -> None:
    data = {"version": made.version, "by": made.updated_by, "policy": PolicyRecord.of(made).to_json()}
    log.info("policy changed", extra={"data": {**data, "reason": why} if why else data})


def _is_of(captured: CapturedPolicy, current: PolicyVersion) -> bool:
    return (captured.version, captured.local_moves) == (current.version, current.local_moves)


def _check_match(version: int, if_versions: Collection[int]) -> None:
    if version not in if_versions:
        named = ", ".join(map(str, sorted(if_versions)))
        raise PolicyConflict(
            f"If-Match names version {named}, but version {version} is in force; "
            "read the policy again and repeat the change"
        )


def _refused(fault: str) -> PolicyStoreDown:
    return PolicyStoreDown(
        f"{fault}; nothing was changed here, the policy in force stays: read it before you send the change again"
    )


def _entry(before: PolicyRecord | None, after: PolicyVersion, changed_by: str | None) -> HistoryEntry:
    return HistoryEntry(
        version=after.version,
        at=after.updated_at,
        by=after.updated_by,
        changed_by=changed_by,
        before=before,
        after=PolicyRecord.of(after),
    )
