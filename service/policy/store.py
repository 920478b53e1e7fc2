"""Where the exit policy outlives the process that serves it. What may be put in force is decided elsewhere."""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, get_args

from service.errors import BadInput, ServiceError
from service.files import write_whole
from service.policy.goals import Objective
from service.policy.versions import HistoryEntry, PolicyRecord, Source

HIGHEST_VERSION = 2**53  # a metric must be able to show it
_FIELDS = {"version", "at", "by", "changed_by", "before", "after"}


class StateUnusable(ServiceError):
    """What is kept is nothing to go on from; the message says why."""


class PolicyStore(Protocol):
    """Keeps the history of one model's policy, oldest first. Its last entry made the policy in force."""

    def load(self) -> tuple[HistoryEntry, ...]:
        """Return what is kept, empty where nothing is. Raises StateUnusable for what this store did not save so."""

    def set_aside(self) -> None:
        """Put what is kept out of the way, where a person can look at it. Raises OSError."""

    def save(self, history: Sequence[HistoryEntry]) -> None:
        """Keep this in place of what was kept, as a whole. Raises OSError, and then everything is as it was."""


class StateFolder:
    """Keeps them in `exit_policy.json` in a folder; see PolicyStore. What is set aside is `exit_policy.unusable`."""

    def __init__(self, folder: Path, model: str) -> None:
        """model: name@version. A file of another one is unusable."""
        self._path = folder / "exit_policy.json"
        self._model = model

    def load(self) -> tuple[HistoryEntry, ...]:
        """See PolicyStore."""
        if not self._path.exists():
            return ()
        try:
            state = json.loads(self._path.read_text(encoding="utf-8"))
            if state["model"] == self._model:
                return _read(state)
        except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError, BadInput) as error:
            raise StateUnusable(f"the state file was unusable: {error}") from error
        raise StateUnusable(f"the state file was of {state['model']}")

    def set_aside(self) -> None:
        """See PolicyStore."""
        os.replace(self._path, self._path.with_suffix(".unusable"))

    def save(self, history: Sequence[HistoryEntry]) -> None:
        """See PolicyStore."""
        newest = history[-1]
        state = {
            "model": self._model,
            "current": {
                "policy": _written_record(newest.after),
                "version": newest.version,
                "updated_at": newest.at,
                "updated_by": newest.by,
            },
            "history": [_written_entry(entry) for entry in history],
        }
        write_whole(self._path, json.dumps(state, indent=1))


def _written_entry(entry: HistoryEntry) -> dict[str, Any]:
    return {
        "version": entry.version,
        "at": entry.at,
        "by": entry.by,
        "changed_by": entry.changed_by,
        "before": _written_record(entry.before) if entry.before else None,
        "after": _written_record(entry.after),
    }


def _written_record(record: PolicyRecord) -> dict[str, Any]:
    return {**record.parameters, **({"autopilot": asdict(record.objective)} if record.objective else {})}


def _read(state: Mapping[str, Any]) -> tuple[HistoryEntry, ...]:
    """Raise BadInput, LookupError, TypeError or ValueError unless there is a history that leads to what is in force."""
    current, history = state["current"], state["history"]
    versions = [entry["version"] for entry in history]
    if any(type(version) is not int or not 0 < version < HIGHEST_VERSION for version in versions):
        raise BadInput(f"the history has the versions {reprlib.repr(versions)}; expected integers of at least 1")
    if versions != sorted(set(versions)) or any(set(entry) != _FIELDS for entry in history):
        raise BadInput(f"the history is not in order; expected ascending versions, each with {sorted(_FIELDS)}")
    newest = history[-1]
    in_force = current["policy"], current["version"], current["updated_at"], current["updated_by"]
    if (newest["after"], newest["version"], newest["at"], newest["by"]) != in_force:
        raise BadInput(f"the history ends at version {versions[-1]}, which is not the policy in force")
    json.dumps(history, allow_nan=False, ensure_ascii=False).encode()  # it can be shown
    return tuple(_read_entry(entry) for entry in history)


def _read_entry(entry: Mapping[str, Any]) -> HistoryEntry:
    version, at, by, changed_by = entry["version"], entry["at"], entry["by"], entry["changed_by"]
    if not isinstance(at, str) or by not in get_args(Source):
        raise BadInput(
            f"version {version} was made at {at!r} by {by!r}; expected a time, and one of {get_args(Source)}"
        )
    if not isinstance(changed_by, str | None):
        raise BadInput(f"version {version} was changed by {changed_by!r}; expected a text or null")
    before = None if entry["before"] is None else _read_record(entry["before"])
    return HistoryEntry(version, at, by, changed_by, before, _read_record(entry["after"]))


def _read_record(record: object) -> PolicyRecord:
    if not isinstance(record, dict):
        raise BadInput("the history has a policy that is no object")
    wish = record.get("autopilot")
    parameters = {name: value for name, value in record.items() if name != "autopilot"}
    return PolicyRecord(parameters, None if wish is None else Objective.merged(None, wish))
