"""The state of what is being answered: a request (one call), its texts, their sequences. No logic lives here."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from service.policy.captured import CapturedPolicy
from service.stepping.inspection import LayerView
from service.stepping.passage import Passage
from service.text.types import EncodedText


@dataclass(slots=True, eq=False)
class Request:
    """One call, admitted as a whole. `future` yields the finished request itself.

    request_id    for the log
    override      changes to the live policy for this request alone
    captured      the policy when it came in, and from its first sequence's start on the one that decides; None has the
                  engine capture it
    deadline      monotonic seconds
    cost          what the queue counts it as, in pieces that go to full depth
    has_started   whether its first sequence has
    is_cancelled  nobody waits any more (see `Engine.cancel`); its sequences leave at the next layer boundary
    submitted, started, finished: monotonic seconds; decode_s: time spent decoding
    """

    texts: tuple[EncodedText, ...]
    deadline: float
    submitted: float
    request_id: str = ""
    override: Mapping[str, Any] | None = None
    captured: CapturedPolicy | None = None
    wants_trace: bool = False
    future: Future[Request] = field(default_factory=Future)
    has_started: bool = False
    is_cancelled: bool = False
    sequences: list[Sequence] = field(default_factory=list)
    unfinished: int = 0
    cost: int = 0
    started: float = 0.0
    finished: float = 0.0
    decode_s: float = 0.0

    @property
    def num_pieces(self) -> int:
        """Pieces over all texts: what the queue is bounded by, beside texts."""
        return sum(text.num_pieces for text in self.texts)

    @property
    def policy(self) -> CapturedPolicy:
        """The policy it was captured with; only an admitted request has one."""
        if self.captured is None:
            raise RuntimeError("the policy of a request was read before the request was admitted")
        return self.captured


@dataclass(slots=True, eq=False)
class Sequence(Passage):
    """One unit of scheduling: a passage and the request that it is of.

    views  of a request that wants a trace: every layer that ran
    """

    request: Request = field(kw_only=True)
    views: list[LayerView] | None = None
