"""The competitors of `benchmarks.peers`: each runs in a process of its own and is asked turn by turn."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.hidden_instructions import hide
from benchmarks.peer_engines import OURS, PEERS, Answer, Setup, Spans
from service.text.types import EncodedText

PAUSE_S = 0.1  # the thread pools of all competitors spin for less than 50 ms


@dataclass(frozen=True, slots=True)
class Turn:
    """Texts for a competitor to answer, all at once or one after another, in batches of at most so many pieces."""

    texts: Sequence[EncodedText]
    max_pieces: int
    at_once: bool = False


@dataclass(frozen=True, slots=True)
class Answered:
    """What a competitor answered; seconds: one figure per text, or one for all texts at once."""

    seconds: list[float]
    spans: Spans


def take(turn: Turn, answer: Answer) -> Answered:
    """Answer the texts of a turn, and measure the time."""
    seconds: list[float] = []
    found: Spans = []
    for texts in [turn.texts] if turn.at_once else [[text] for text in turn.texts]:
        started = time.perf_counter()
        spans = answer(texts, turn.max_pieces)
        seconds.append(time.perf_counter() - started)
        found += spans
    return Answered(seconds, found)


def take_turns(name: str, setup: Setup, pipe: Connection) -> None:
    """Send the dtype, which says that the competitor is ready; then take every turn that comes, until None."""
    if setup.hides_faster:
        hide(setup.instructions)
    with {**OURS, **PEERS}[name](setup) as (answer, dtype):
        pipe.send(dtype)
        while (turn := pipe.recv()) is not None:
            pipe.send(take(turn, answer))


class Competitor:
    """A competitor's process, which is asked turn by turn.

    agreement  F1, in [0, 1], of its spans against those of the reference executor at full depth
    f1         F1 x 100 on the whole file; None if it was not measured
    """

    def __init__(self, name: str, setup: Setup) -> None:
        self.name, self.dtype, self.is_peer = name, "", name in PEERS
        self.agreement = 0.0
        self.f1: float | None = None
        processes = multiprocessing.get_context("spawn")  # a fork would share what PyTorch's threads hold
        self._pipe, theirs = processes.Pipe()
        self._process = processes.Process(target=take_turns, args=(name, setup, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def wait(self) -> None:
        """Wait until the process is ready."""
        self.dtype = self._receive()

    def take(self, turn: Turn) -> Answered:
        """Have the competitor take a turn, after a pause."""
        time.sleep(PAUSE_S)
        self._pipe.send(turn)
        answered: Answered = self._receive()
        return answered

    def close(self) -> None:
        """End the process."""
        if self._process.is_alive():
            self._pipe.send(None)
        self._process.join()

    def _receive(self) -> Any:
        try:
            return self._pipe.recv()
        except EOFError as error:
            raise SystemExit(f"{self.name} ended; what it wrote above says why") from error
