"""The state of what is being answered: a request (one call), its texts, their sequences. No logic lives here."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from service.exits.policy import Evidence, ExitPolicy, ExitReason
from service.exits.reading import Reading
from service.exits.words import Words, work_of_pieces
from service.policy.captured import CapturedPolicy
from service.spans.types import Span
from service.text.types import EncodedText, SequenceInput


@dataclass(slots=True, eq=False)
class Request:
    """One call, admitted as a whole. `future` yields the finished request itself.

    request_id    for the log
    override      changes to the live policy for this request alone; both are captured when its first sequence starts
    deadline      monotonic seconds
    cost          what the queue counts it as, in pieces that go to full depth
    is_cancelled  nobody waits any more (see `Engine.cancel`); its sequences leave at the next layer boundary
    submitted, started, finished: monotonic seconds; decode_s: time spent decoding
    """

    texts: tuple[EncodedText, ...]
    deadline: float
    submitted: float
    request_id: str = ""
    override: Mapping[str, Any] | None = None
    wants_trace: bool = False
    future: Future[Request] = field(default_factory=Future)
    is_cancelled: bool = False
    captured: CapturedPolicy | None = None
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


@dataclass(slots=True, eq=False)
class Sequence:
    """One unit of scheduling on its way through the layers.

    hidden   (pieces, hidden) on the device, after the last layer that ran
    readings per layer that ran, what its exit said; None where the policy needed none
    history  per layer that ran, what the policy saw
    words    what became of its words, under a strategy that lets them halt one by one
    """

    request: Request
    input: SequenceInput
    hidden: Any = None
    readings: list[Reading | None] = field(default_factory=list)
    history: list[Evidence] = field(default_factory=list)
    exit_reason: ExitReason | None = None
    words: Words | None = None
    spans: list[Span] = field(default_factory=list)
    trace: list[dict[str, Any]] | None = None

    @property
    def layer(self) -> int:
        """Layers that ran; once `exit_reason` is set, the exit layer."""
        return len(self.history)

    @property
    def exit_layer(self) -> float:
        """The layer that it left after; of one whose words halted one by one, the mean over its words."""
        return self.layer if self.words is None else float(self.words.layers.mean())

    @property
    def step_pieces(self) -> int:
        """What its next layer costs, in pieces that move."""
        if self.words is None or not self.history:
            return self.input.num_pieces
        sequence, moving = self.input, self.words.moving
        halted = int((sequence.last_piece - sequence.first_piece + 1)[~moving].sum())
        return work_of_pieces(sequence.num_pieces - halted, halted)

    @property
    def policy(self) -> ExitPolicy:
        """The policy its request captured; only a sequence that started has one."""
        if self.request.captured is None:
            raise RuntimeError("the policy of a sequence was read before its request started")
        return self.request.captured.policy

    @property
    def seen(self) -> list[Reading]:
        """What the exits said that were computed."""
        return [reading for reading in self.readings if reading is not None]

    def release(self) -> None:
        """Give back the device's memory."""
        self.hidden = None
        self.readings.clear()
