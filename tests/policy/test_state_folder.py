"""The state file against what disks, operators and the end of a process do to it."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from service.api.schemas.exit_policy import HistoryEntryOut
from service.errors import BadInput, EngineFailed
from service.exits.assets import ModelAssets
from service.exits.operating_points import Calibration
from service.exits.policies.vee import Vee
from service.files import write_whole
from service.policy.goals import Goals
from service.policy.live import LivePolicy
from service.policy.store import StateFolder
from tests.engine.scripted_ import DEADLINE_S
from tests.exits.calibrations_ import CALIBRATION
from tests.policy.live_ import change, minutes, start
from tests.policy.test_live import STATE_FILE

PARTIAL, UNUSABLE = "exit_policy.partial", "exit_policy.unusable-1"
ROOT = Path(__file__).resolve().parents[2]
SHOWN = TypeAdapter(list[HistoryEntryOut])
seeded = settings(derandomize=True, deadline=None, max_examples=300)
junk = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just([]) | st.just({})
junk |= st.sampled_from([2**53, 10**400, -1, "full_depth", "\ud800", {"strategy": "vee"}, [{}], [[]], {"strategy": []}])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A state file after two changes."""
    folder = tmp_path_factory.mktemp("written")
    live = start(folder)
    change(live, tau=-0.5, patience=2)
    live.change({"strategy": "full_depth"}, source="api", changed_by="ada")
    return (folder / STATE_FILE).read_bytes()


@pytest.fixture(scope="module")
def with_autopilot(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A state file of a calibrated model whose autopilot is on."""
    folder = tmp_path_factory.mktemp("with-autopilot")
    live = start(folder, calibration=CALIBRATION)
    change(live, preset="fast")
    change(live, autopilot={"p95_ms": 100, "max_f1_loss": 1.0})
    return (folder / STATE_FILE).read_bytes()


@pytest.fixture
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that write a thousand times."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@contextmanager
def no_file_larger_than(num_bytes: int) -> Iterator[None]:
    """What this process writes fails beyond it, in the kernel."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def without_the_rights_of_root(folder: Path) -> Iterator[Path]:
    """Where the tests run as root, which may do anything: as a user that owns just `folder`; -> its path from there."""
    before = Path.cwd()
    os.chown(folder, 65_534, -1) if os.geteuid() == 0 else None
    os.chdir(folder)  # the folders above are closed to that user
    effective = os.geteuid()
    if effective == 0:
        os.seteuid(65_534)
    try:
        yield Path(".")
    finally:
        os.seteuid(effective)
        os.chdir(before)


def start_on(folder: Path, state: bytes, calibration: Calibration | None = None) -> None:
    """Start on a state file of these bytes: it must work, on them or on the default."""
    for left in folder.iterdir():
        left.unlink()
    (folder / STATE_FILE).write_bytes(state)
    live = start(folder, calibration=calibration)
    history = live.history()
    SHOWN.dump_json(SHOWN.validate_python([asdict(entry) for entry in history], strict=True, extra="forbid"))
    for entry in history:
        with suppress(BadInput):  # a policy that cannot be any more
            live.change({"rollback_to": entry.version}, source="api")
    assert change(live, strategy="full_depth").version == live.current.version
    assert start(folder, calibration=calibration).current == live.current


# torn


@pytest.mark.usefixtures("quick_disk")
def test_a_state_file_torn_at_any_byte_is_set_aside_and_the_default_starts(tmp_path: Path, written: bytes) -> None:
    for length in range(len(written)):
        (tmp_path / UNUSABLE).unlink(missing_ok=True)
        (tmp_path / STATE_FILE).write_bytes(written[:length])
        live = start(tmp_path)
        assert (live.current.policy, live.current.version) == (Vee(), 1)
        assert "unusable" in live.history()[0].changed_by
        assert (tmp_path / UNUSABLE).read_bytes() == written[:length]


@pytest.mark.usefixtures("quick_disk")
def test_a_state_file_with_any_bytes_changed_starts_on_something_that_works(
    tmp_path_factory: pytest.TempPathFactory, written: bytes
) -> None:
    folder = tmp_path_factory.mktemp("changed")
    positions = st.integers(0, len(written) - 1)

    @seeded
    @given(st.lists(st.tuples(positions, st.binary(min_size=1, max_size=3)), min_size=1, max_size=3))
    def check(edits: list[tuple[int, bytes]]) -> None:
        state = bytearray(written)
        for position, content in edits:
            state[position : position + len(content)] = content
        start_on(folder, bytes(state))

    check()


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a JSON document."""
    yield path
    steps = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for step, child in steps:
        yield from places(child, (*path, step))


def with_value(node: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A JSON document with another value at a path."""
    if not path:
        return value
    copy = node.copy()
    copy[path[0]] = with_value(node[path[0]], path[1:], value)
    return copy


@pytest.mark.usefixtures("quick_disk")
def test_a_state_file_with_any_value_replaced_starts_on_something_that_works(
    tmp_path_factory: pytest.TempPathFactory, written: bytes, with_autopilot: bytes
) -> None:
    folder = tmp_path_factory.mktemp("replaced")
    states = [(json.loads(written), None), (json.loads(with_autopilot), CALIBRATION)]
    edits = [(state, path, calibration) for state, calibration in states for path in places(state)]

    @seeded
    @given(st.sampled_from(edits), junk)
    @example((states[0][0], ("model",), None), "\ud800")
    def check(edit: tuple[Any, tuple[Any, ...], Calibration | None], value: Any) -> None:
        state, path, calibration = edit
        start_on(folder, json.dumps(with_value(state, path, value)).encode(), calibration)

    check()


def test_what_a_killed_process_left_behind_is_in_nobodys_way(tmp_path: Path, written: bytes) -> None:
    (tmp_path / STATE_FILE).write_bytes(written)
    (tmp_path / PARTIAL).write_bytes(written[:100])
    live = start(tmp_path)
    assert live.current.version == 3
    assert change(live, strategy="vee").version == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == [STATE_FILE]


def test_of_a_process_that_is_killed_no_acknowledged_change_is_lost(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.policy.killed_", str(tmp_path), "10", "0"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S * 4)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["changes"] > 0


# nothing is lost


def changed_twice(state_dir: Path, model: str) -> LivePolicy:
    live = start_within(state_dir, model)
    change(live, tau=-0.5)
    change(live, tau=-0.7)
    return live


def start_within(state_dir: Path, model: str) -> LivePolicy:
    """Start a model as a server does, on a state folder that it shares with other models."""
    goals = Goals.of(model, ModelAssets(4))
    return LivePolicy(goals, StateFolder.within(state_dir, model), now=minutes())


def test_another_model_and_back_keeps_the_history_of_both(tmp_path: Path) -> None:
    one, other = changed_twice(tmp_path, "one@1"), changed_twice(tmp_path, "other@1")
    for model, before in (("one@1", one), ("other@1", other), ("one@1", one)):
        after = start_within(tmp_path, model)
        assert (after.current, after.history()) == (before.current, before.history())


def test_what_is_set_aside_is_never_overwritten_and_the_log_says_where_it_lies(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for content in (b"first", b"second", b"third"):
        (tmp_path / STATE_FILE).write_bytes(content)
        start(tmp_path)
    aside = [tmp_path / f"exit_policy.unusable-{number}" for number in (1, 2, 3)]
    assert [path.read_bytes() for path in aside] == [b"first", b"second", b"third"]
    logged = [record.data["file"] for record in caplog.records if record.message == "state set aside"]
    assert logged == [str(path) for path in aside]


@pytest.mark.parametrize("served", ["tiny@1", "other@1"])
def test_the_file_of_an_earlier_version_is_moved_to_the_model_that_it_is_of(
    tmp_path: Path, written: bytes, served: str
) -> None:
    (tmp_path / STATE_FILE).write_bytes(written)
    assert start_within(tmp_path, served).current.version == (3 if served == "tiny@1" else 1)
    assert start_within(tmp_path, "tiny@1").current.version == 3
    assert not (tmp_path / STATE_FILE).exists()


def test_the_file_of_an_earlier_version_replaces_no_newer_one(tmp_path: Path, written: bytes) -> None:
    live = changed_twice(tmp_path, "tiny@1")
    (tmp_path / STATE_FILE).write_bytes(written)
    assert start_within(tmp_path, "tiny@1").history() == live.history()
    assert (tmp_path / "tiny@1" / UNUSABLE).read_bytes() == written


@pytest.mark.parametrize("content", [b"torn", b"[" * 100_000, b'{"model": "../x@1"}', b'{"model": 7}', b"null"])
def test_a_file_of_an_earlier_version_that_names_no_model_is_set_aside(tmp_path: Path, content: bytes) -> None:
    (tmp_path / STATE_FILE).write_bytes(content)
    assert "the state file was" in start_within(tmp_path, "tiny@1").history()[0].changed_by
    assert (tmp_path / "tiny@1" / UNUSABLE).read_bytes() == content


def test_no_name_of_a_model_leads_out_of_the_state_folder(tmp_path: Path) -> None:
    state_dir = tmp_path / "a" / "b"
    for model in ("../../x@1", "..@..", "/x@1", ".@."):
        changed_twice(state_dir, model)
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and len(list(state_dir.iterdir())) == 4


@pytest.mark.parametrize("highest", [2**52 + 1, 2**53 - 1, 2**53, 10**30])
def test_after_the_highest_version_of_an_edited_file_no_acknowledged_change_is_lost(
    tmp_path: Path, written: bytes, highest: int
) -> None:
    (tmp_path / STATE_FILE).write_text(
        written.decode().replace('"version": 3', f'"version": {highest}'), encoding="utf-8"
    )
    for expected in (4, 5):
        live = start(tmp_path)
        assert change(live, strategy="vee", patience=expected).version == expected
    after = start(tmp_path)
    assert after.current == live.current and len(after.history()) == 5


# in the way


def test_a_folder_in_the_place_of_the_state_file_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / STATE_FILE / "something").mkdir(parents=True)
    live = start(tmp_path)
    assert "unusable" in live.history()[0].changed_by
    assert (tmp_path / UNUSABLE / "something").is_dir() and (tmp_path / STATE_FILE).is_file()


def test_a_folder_in_the_place_of_the_partial_file_refuses_changes_and_no_more(tmp_path: Path) -> None:
    live = start(tmp_path)
    (tmp_path / PARTIAL).mkdir()
    with pytest.raises(EngineFailed, match="nothing was changed"):
        change(live, tau=-0.5)
    (tmp_path / PARTIAL).rmdir()
    assert change(live, tau=-0.5).version == 2


def test_a_state_file_that_may_not_be_read_is_set_aside(tmp_path: Path, written: bytes) -> None:
    (tmp_path / STATE_FILE).write_bytes(written)
    (tmp_path / STATE_FILE).chmod(0)
    with without_the_rights_of_root(tmp_path) as folder:
        assert "Permission denied" in start(folder).history()[0].changed_by


def test_a_folder_that_may_not_be_written_keeps_the_policy_and_refuses_changes(tmp_path: Path, written: bytes) -> None:
    (tmp_path / STATE_FILE).write_bytes(written)
    tmp_path.chmod(0o555)
    try:
        with without_the_rights_of_root(tmp_path) as folder:
            live = start(folder)
            assert live.current.version == 3
            with pytest.raises(EngineFailed, match="nothing was changed"):
                change(live, strategy="vee")
            assert live.current.version == 3
    finally:
        tmp_path.chmod(0o755)


# full


@pytest.mark.parametrize("num_bytes", [0, 100])
def test_a_disk_without_room_refuses_the_change_and_keeps_the_policy(
    tmp_path: Path, num_bytes: int, caplog: pytest.LogCaptureFixture
) -> None:
    live = start(tmp_path)
    before, file = (live.describe(), live.history()), (tmp_path / STATE_FILE).read_bytes()
    with no_file_larger_than(num_bytes), pytest.raises(EngineFailed, match="nothing was changed"):
        change(live, tau=-0.5)
    assert (live.describe(), live.history()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [STATE_FILE]
    assert (tmp_path / STATE_FILE).read_bytes() == file
    assert "File too large" in caplog.text
    assert change(live, tau=-0.5).version == 2


@pytest.mark.parametrize("seam", ["open", "fdopen", "fsync", "replace"])
def test_wherever_the_disk_fails_the_file_stays_as_it_was(
    tmp_path: Path, seam: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.txt"
    write_whole(path, "before")

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, seam, fail)
        with pytest.raises(OSError, match="No space left"):
            write_whole(path, "after")
    assert path.read_text(encoding="utf-8") == "before"
    assert sorted(left.name for left in tmp_path.iterdir()) == ["file.txt"]


def test_a_folder_that_cannot_be_flushed_keeps_the_file_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[bool] = []
    fsync = os.fsync

    def flush_files_only(descriptor: int) -> None:
        flushed.append(is_folder := os.path.isdir(f"/proc/self/fd/{descriptor}"))
        if is_folder:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", flush_files_only)
    write_whole(tmp_path / "file.txt", "kept")
    assert (tmp_path / "file.txt").read_text(encoding="utf-8") == "kept"
    assert flushed == [False, True]
