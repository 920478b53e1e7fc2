"""`python -m tests.policy.killed_ FOLDER ROUNDS SEED`: changes of the policy against SIGKILL. No test lives here.

A process that changes its policy without a pause is killed at random moments, again and again. After every kill the
state must be what was acknowledged last, or the change after it. Prints what was seen as one JSON object.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from service.exits.assets import ModelAssets
from service.policy.goals import Goals
from service.policy.live import LivePolicy
from service.policy.store import StateFolder
from service.policy.versions import PolicyRecord

LONGEST_LIFE_S = 0.05


def start(folder: Path) -> LivePolicy:
    """A model's live policy on what is there."""
    goals = Goals.of("tiny@1", ModelAssets(4))
    return LivePolicy(goals, StateFolder(folder, "tiny@1"), now=lambda: datetime.now(UTC))


def change_without_a_pause(folder: Path, acknowledge: int) -> None:
    """Until killed; every version goes down the pipe `acknowledge` once it is in force."""
    live = start(folder)
    while True:
        live.change({"patience": live.current.version + 1}, source="api")
        os.write(acknowledge, live.current.version.to_bytes(8, "big"))


def one_life(folder: Path, seconds: float) -> int:
    """Start, let live for so long, kill; -> the last version that was acknowledged, 0 if none was."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        change_without_a_pause(folder, writing)
    os.close(writing)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as pipe:
        return int.from_bytes(pipe.read()[-8:], "big")


def main(folder: Path, rounds: int, seed: int) -> None:
    """Raises AssertionError at the first state that is not what it must be."""
    generator, version = random.Random(seed), start(folder).current.version
    seen = {"kills": rounds, "changes": 0, "killed_before_the_acknowledgement": 0, "partial_files_left": 0}
    for _ in range(rounds):
        acknowledged = one_life(folder, generator.uniform(0, LONGEST_LIFE_S)) or version
        seen["partial_files_left"] += (folder / "exit_policy.partial").exists()
        found = start(folder)
        history = found.history()
        assert found.current.version in (acknowledged, acknowledged + 1), (acknowledged, found.current)
        assert [entry.version for entry in history] == list(range(found.current.version, history[-1].version - 1, -1))
        assert all(newer.before == older.after for newer, older in pairwise(history))
        assert history[0].after == PolicyRecord.of(found.current)
        seen["changes"] += found.current.version - version
        seen["killed_before_the_acknowledgement"] += found.current.version - acknowledged
        version = found.current.version
    print(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
