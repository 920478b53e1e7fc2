"""Stores that keep the exit policy when the process ends. Which policy may be in force is decided elsewhere."""

from __future__ import annotations

import json
import logging
import os
import re
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self, get_args
from urllib.parse import quote

from service.errors import BadInput, ServiceError
from service.files import aside_of, set_aside, write_whole
from service.policy.versions import HistoryEntry, PolicyRecord, Source

log = logging.getLogger(__name__)

_FILE = "exit_policy.json"
_FIELDS = {"version", "at", "by", "changed_by", "before", "after"}


class StateUnusable(ServiceError):
    """The saved state cannot be used; the message says why."""


class PolicyStoreDown(ServiceError):
    """The store that replicas share cannot be used at the moment; the message says why."""


class StoreMovedOn(ServiceError):
    """Somebody else has changed the shared store since it was read here: read it again."""


class PolicyStore(Protocol):
    """Keeps the history of one model's policy, oldest first. Its last entry made the policy in force.

    One that replicas share raises PolicyStoreDown, too, from every method, and StoreMovedOn where it is said.
    """

    is_shared: bool
    """Whether others may save as well. What is saved then follows what was read last, or StoreMovedOn is raised."""

    def load(self) -> tuple[HistoryEntry, ...]:
        """Return the saved history, empty if there is none. Raises StateUnusable if it cannot be read."""

    def newest(self) -> HistoryEntry | None:
        """Return the last entry of the saved history, None if there is none. Raises StateUnusable, likewise."""

    def set_aside(self) -> str:
        """Move the saved state to where a person can look at it, and say where that is.

        Raises OSError, and StoreMovedOn.
        """

    def save(self, history: Sequence[HistoryEntry]) -> None:
        """Save the history as a whole, in place of the one that was saved, which is a part of it or empty.

        Raises OSError, and StoreMovedOn; then the saved history is unchanged.
        """


class StateFolder:
    """Keeps the history of one model in a folder of its own. See PolicyStore.

    The file is `exit_policy.json`; what is set aside becomes `exit_policy.unusable-1`, `-2` and so on.
    """

    is_shared = False  # `service.policy.lock` keeps others out

    def __init__(self, folder: Path, model: str) -> None:
        """model: name@version; the file of another model is unusable."""
        self._path = folder / _FILE
        self._model = model

    @classmethod
    def within(cls, state_dir: Path, model: str) -> Self:
        """Return the store of a model in a server's state folder, where every model has a folder of its own.

        Earlier versions kept one file for all models: it is moved to the folder of the model that it names, or of
        `model` if it names none. Raises OSError.
        """
        old = state_dir / _FILE
        if os.path.lexists(old):
            folder = folder_of(state_dir, _model_named_in(old) or model)
            folder.mkdir(exist_ok=True)
            place = folder / _FILE
            if os.path.lexists(place):
                place = aside_of(folder / _FILE)
            os.rename(old, place)
            log.info("state moved", extra={"data": {"file": str(old), "to": str(place.resolve())}})
        return cls(folder_of(state_dir, model), model)

    @classmethod
    def copy_within(cls, state_dir: Path, model: str) -> StateFolder:
        """Return the place in a server's state folder for a copy of what replicas share.

        It is apart from what the server keeps while it is alone: that is of another history.
        """
        return cls(folder_of(state_dir, model) / "shared", model)

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

    def newest(self) -> HistoryEntry | None:
        """See PolicyStore."""
        history = self.load()
        return history[-1] if history else None

    def set_aside(self) -> str:
        """See PolicyStore."""
        return str(set_aside(self._path).resolve())

    def save(self, history: Sequence[HistoryEntry]) -> None:
        """See PolicyStore."""
        newest = history[-1]
        state = {
            "model": self._model,
            "current": {
                "policy": newest.after.to_json(),
                "version": newest.version,
                "updated_at": newest.at,
                "updated_by": newest.by,
            },
            "history": [written_entry(entry) for entry in history],
        }
        write_whole(self._path, json.dumps(state, indent=1))


def folder_of(state_dir: Path, model: str) -> Path:
    return state_dir / quote(model, safe="@")


def _model_named_in(path: Path) -> str | None:
    """Return the name@version of the model that a state file is of; None where it does not say so."""
    try:
        model = json.loads(path.read_text(encoding="utf-8"))["model"]
        return model if re.fullmatch(r"[\w.-]{1,100}@[\w.-]{1,100}", model, re.ASCII) else None
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def written_entry(entry: HistoryEntry) -> dict[str, Any]:
    """Return an entry as stores keep it, which is a JSON object."""
    return {
        "version": entry.version,
        "at": entry.at,
        "by": entry.by,
        "changed_by": entry.changed_by,
        "before": entry.before.to_json() if entry.before else None,
        "after": entry.after.to_json(),
    }


def _read(state: Mapping[str, Any]) -> tuple[HistoryEntry, ...]:
    """Return the history of a saved state, whose last entry is the policy in force.

    Raises BadInput, LookupError, TypeError or ValueError for a state that is not of this form.
    """
    current, history = state["current"], read_history(state["history"])
    newest = state["history"][-1]
    in_force = current["policy"], current["version"], current["updated_at"], current["updated_by"]
    if (newest["after"], newest["version"], newest["at"], newest["by"]) != in_force:
        raise BadInput(f"the history ends at version {history[-1].version}, which is not the policy in force")
    return history


def read_history(written: Sequence[Mapping[str, Any]]) -> tuple[HistoryEntry, ...]:
    """Return the history that was kept as these JSON objects, oldest first.

    Raises BadInput, LookupError, TypeError or ValueError for what is no such history.
    """
    versions = [entry["version"] for entry in written]
    if any(type(version) is not int or version < 1 for version in versions):
        raise BadInput(f"the history has the versions {reprlib.repr(versions)}; expected integers of at least 1")
    if versions != sorted(set(versions)) or any(set(entry) != _FIELDS for entry in written):
        raise BadInput(f"the history is not in order; expected ascending versions, each with {sorted(_FIELDS)}")
    json.dumps(written, allow_nan=False, ensure_ascii=False).encode()  # raises ValueError unless it can be shown
    return tuple(_read_entry(entry) for entry in written)


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
    objective, promise = record.get("autopilot"), record.get("promise")
    parameters = {name: value for name, value in record.items() if name not in ("autopilot", "promise")}
    if not isinstance(objective, dict | None):
        raise BadInput("the history has an objective of the autopilot that is no object")
    if not isinstance(promise, dict | None):
        raise BadInput("the history has a promise that is no object")
    return PolicyRecord(parameters, objective, promise)
