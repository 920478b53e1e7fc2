"""Answers a sequence by an equal one: under way (coalesced), or answered before (cached).

The way of a sequence before its first layer:

    key = what the model reads and the policy that decides
    in the cache           -> it has its answer, and leaves
    an equal one under way -> it follows that leader, and takes over its answer when the leader leaves
    else                   -> it runs, and leads those that come

A leader has the priority of those that follow it: nobody waits for one who waits longer.
An answer does not depend on batch mates, so both are the answers that a run of its own would have given. What a caller
inspects, or has under a policy of its own, is always run. The cache holds no text, only a keyed hash of the pieces.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal, NamedTuple

from service.engine.sequence import Priority, Sequence
from service.exits.policy import ExitReason
from service.spans.types import Span

ReuseSource = Literal["cache", "under_way"]
Decided = tuple[int, tuple[int, int], int, int]
Key = tuple[bytes, bytes, bytes, bytes, Decided]
ENTRY_BYTES = 600  # of an answer without spans: its hash, its places in two tables; measured, see the tests
SPAN_BYTES = 240


class Outcome(NamedTuple):
    """How a sequence left: after which layer, why, and with which spans."""

    layer: int
    reason: ExitReason | None
    spans: list[Span]

    @property
    def num_bytes(self) -> int:
        """About how much memory it takes in the cache."""
        return ENTRY_BYTES + SPAN_BYTES * len(self.spans)


class AnswerCache:
    """Keeps the latest answers, within a number of bytes; what was not asked for the longest goes first."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._secret = secrets.token_bytes(32)  # so that nobody can tell a text from its hash
        self._kept: OrderedDict[bytes, Outcome] = OrderedDict()
        self.num_bytes = 0

    def get(self, key: Key) -> Outcome | None:
        """Return the answer that was kept under a key."""
        hashed = self._hash(key)
        found = self._kept.get(hashed)
        if found is not None:
            self._kept.move_to_end(hashed)
        return found

    def put(self, key: Key, outcome: Outcome) -> None:
        """Keep an answer; one that is larger than the cache is not kept."""
        hashed = self._hash(key)
        if outcome.num_bytes > self._max_bytes or hashed in self._kept:
            return
        self._kept[hashed] = outcome
        self.num_bytes += outcome.num_bytes
        while self.num_bytes > self._max_bytes:
            _, dropped = self._kept.popitem(last=False)
            self.num_bytes -= dropped.num_bytes

    def _hash(self, key: Key) -> bytes:
        *read, decided = key
        return blake2b(b"".join((*read, repr(decided).encode())), digest_size=16, key=self._secret).digest()


@dataclass(slots=True)
class Reuse:
    """The sequences under way and the cache. It belongs to the engine's worker, and to no other thread.

    cache  None: nothing is kept beyond its run
    is_on  False: every sequence runs, as benchmarks of the engine want it
    """

    cache: AnswerCache | None = None
    is_on: bool = True
    _leaders: dict[tuple[Priority, Key], list[Sequence]] = field(default_factory=dict)  # of each, who follows it
    _keys: dict[Sequence, Key] = field(default_factory=dict)  # of every leader

    def begin(self, sequences: Iterable[Sequence]) -> tuple[list[Sequence], list[Sequence]]:
        """Return of sequences before their first layer those that have to run, and those that have their answer now."""
        to_run, answered = [], []
        for sequence in sequences:
            key = _key(sequence) if self.is_on else None
            if key is None:
                to_run.append(sequence)
            elif self.cache is not None and (outcome := self.cache.get(key)) is not None:
                _answer_as(sequence, outcome)
                answered.append(sequence)
            elif (leader := (sequence.request.priority, key)) in self._leaders:
                self._leaders[leader].append(sequence)
            else:
                self._leaders[leader], self._keys[sequence] = [], key
                to_run.append(sequence)
        return to_run, answered

    def end(self, leader: Sequence) -> list[Sequence]:
        """Give the answer of a sequence that left to those that follow it; -> those, and keep it in the cache."""
        key = self._keys.pop(leader, None)
        if key is None:
            return []
        followers = self._leaders.pop((leader.request.priority, key))
        outcome = Outcome(leader.layer, leader.exit_reason, leader.spans)
        for follower in followers:
            _answer_as(follower, outcome)
            follower.words = leader.words
        if self.cache is not None and leader.words is None:  # a strategy by word has more to tell than an outcome
            self.cache.put(key, outcome)
        return followers

    def give_up(self, leader: Sequence) -> list[Sequence]:
        """Forget a sequence that will not be answered; -> those that follow it, which have to run on their own."""
        key = self._keys.pop(leader, None)
        return [] if key is None else self._leaders.pop((leader.request.priority, key))

    @property
    def cache_bytes(self) -> int:
        """How much memory the cached answers take, about."""
        return 0 if self.cache is None else self.cache.num_bytes

    def clear(self) -> None:
        """Forget all that is under way."""
        self._leaders.clear()
        self._keys.clear()


def _key(sequence: Sequence) -> Key | None:
    """Return what decides a sequence's answer; None if it must be run whatever is known."""
    captured = sequence.request.policy
    if sequence.keeps_every_exit or captured.is_override:
        return None
    given = sequence.input
    return (
        given.piece_ids.tobytes(),
        given.shape_ids.tobytes(),
        given.first_piece.tobytes(),
        given.last_piece.tobytes(),
        (given.num_pieces, given.owned, captured.version, captured.local_moves),
    )


def _answer_as(sequence: Sequence, outcome: Outcome) -> None:
    sequence.history = [()] * outcome.layer
    sequence.exit_reason, sequence.spans = outcome.reason, outcome.spans
