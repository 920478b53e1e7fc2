"""The lock on a state folder: one server at a time, whatever became of the one before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from service.errors import BadInput
from service.policy.lock import StateLock
from tests.policy.test_state_folder import ROOT, without_the_rights_of_root

HOLD = "import sys; from pathlib import Path; from service.policy.lock import StateLock; "
HOLD += "lock = StateLock(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"


def hold(folder: Path) -> subprocess.Popen[str]:
    """A process that holds the folder's lock until its input ends."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_second_server_on_one_folder_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    folder = tmp_path / "made on demand"
    with hold(folder) as holder:
        with pytest.raises(BadInput) as error:
            StateLock(folder)
        holder.communicate("")
    assert f"process {holder.pid} on" in str(error.value) and str(folder) in str(error.value)
    StateLock(folder).release()


def test_a_killed_server_holds_nothing(tmp_path: Path) -> None:
    with hold(tmp_path) as holder:
        holder.send_signal(signal.SIGKILL)
    StateLock(tmp_path).release()


def test_a_folder_in_which_nothing_can_be_written_needs_no_lock(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with without_the_rights_of_root(tmp_path) as folder:
            StateLock(folder).release()
            assert not (folder / "lock").exists()
    finally:
        tmp_path.chmod(0o755)


def test_a_lock_file_of_another_user_is_respected(tmp_path: Path) -> None:
    with hold(tmp_path) as holder:
        os.chmod(tmp_path / "lock", 0o444)
        with without_the_rights_of_root(tmp_path) as folder, pytest.raises(BadInput, match="in use by process"):
            StateLock(folder)
        holder.communicate("")
