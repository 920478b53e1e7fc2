"""The state of a request (one call) while it is answered, and of its sequences. No logic lives here."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal

from service.errors import ServiceError
from service.policy.captured import CapturedPolicy
from service.stepping.inspection import LayerView
from service.stepping.passage import Passage
from service.text.types import EncodedText

Priority = Literal["interactive", "bulk"]
"""Bulk work is done with what interactive requests leave, see `service.engine.scheduler`."""


@dataclass(slots=True, eq=False)
class Request:
    """One call, admitted as a whole.

    future        is done once the request is answered; it has its error, if there is one. It is of a thread, or of an
                  event loop, which is then woken once for all that finished in a step
    deadline      when the request times out, in monotonic seconds
    request_id    names the request in the log
    override      changes to the live policy for this request alone
    captured      the policy at the request's arrival; once its first sequence has started, the policy that decides.
                  If it is None, the engine captures one on `submit`
    has_started   whether its first sequence has started
    is_cancelled  whether it was cancelled (see `Engine.cancel`): its sequences leave at the next layer boundary
    error         why it failed, once it is answered; None if it did not
    unfinished    how many of its sequences have no answer yet
    turn          which goes first, in monotonic seconds: the one with the earliest
    cost          how much of the queue it takes, in pieces that run to full depth
    submitted, started, finished: monotonic seconds; decode_s: seconds spent decoding
    """

    texts: tuple[EncodedText, ...]
    deadline: float
    submitted: float
    request_id: str = ""
    override: Mapping[str, Any] | None = None
    captured: CapturedPolicy | None = None
    wants_trace: bool = False
    priority: Priority = "interactive"
    future: Future[None] | asyncio.Future[None] = field(default_factory=Future)
    has_started: bool = False
    is_cancelled: bool = False
    error: ServiceError | None = None
    sequences: list[Sequence] = field(default_factory=list)
    unfinished: int = 0
    turn: float = 0.0
    cost: int = 0
    started: float = 0.0
    finished: float = 0.0
    decode_s: float = 0.0

    @property
    def num_pieces(self) -> int:
        """The number of pieces of all its texts."""
        return sum(text.num_pieces for text in self.texts)

    def let_go(self) -> None:
        """Let go of all that refers to the request, so that its memory is free at once and not when cycles are sought.

        Whoever has its answer calls this. The engine may still run its sequences.
        """
        self.sequences, self.unfinished, self.error = [], 0, None

    def share_left(self, num_layers: int) -> float:
        """Return the share of its work that is not done, as if everything ran to the last of so many layers."""
        layers = [sequence.layer for sequence in self.sequences if sequence.exit_reason is None]
        return (len(layers) - sum(layers) / num_layers) / max(1, len(self.sequences))

    @property
    def policy(self) -> CapturedPolicy:
        """The captured policy. Raises RuntimeError for a request that has none, since it was not submitted."""
        if self.captured is None:
            raise RuntimeError("the policy of a request was read before the request was admitted")
        return self.captured


@dataclass(slots=True, eq=False)
class Sequence(Passage):
    """One unit of scheduling: a passage and its request.

    views  one view of every layer that ran, if the request wants a trace; else None
    """

    request: Request = field(kw_only=True)
    views: list[LayerView] | None = None
