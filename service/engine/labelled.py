"""Labelled runs: sentences whose right entities somebody has told run to full depth in idle time, with all exits.

Nobody waits for one, so it runs as samples do: a layer at a time, and only while no request has a step to run. Of a
sentence its pieces are kept until it has run, and nothing afterwards. What is made of a run is decided elsewhere.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from service.errors import Overloaded, TooLarge
from service.exits.policies.full_depth import FullDepth
from service.exits.reading import Reading, SpanSet
from service.stepping.passage import Passage
from service.stepping.stepper import Stepper
from service.text.types import SequenceInput

MOST_BYTES = 4_000_000  # of sentences that wait
BYTES_OF_A_SENTENCE, BYTES_OF_A_SPAN = 1_500, 250  # that Python takes for one, beside its numbers
RETRY_AFTER_S = 10.0


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """A sentence and its right entities, as (first word, last word + 1, label).

    An entity that begins or ends within a word is there as one that no level can answer.
    """

    sequence: SequenceInput
    right: SpanSet

    @property
    def num_bytes(self) -> int:
        """What it takes while it waits, about."""
        one = self.sequence
        numbers = (one.piece_ids, one.shape_ids, one.first_piece, one.last_piece, one.word_starts, one.word_ends)
        return BYTES_OF_A_SENTENCE + sum(part.nbytes for part in numbers) + BYTES_OF_A_SPAN * len(self.right)


Report = Callable[[Sequence[Reading], Labelled], None]


class LabelledRuns:
    """The labelled sentences that wait and the one that runs. Any thread may add some; the worker runs them."""

    def __init__(self, report: Report) -> None:
        """report: called in the worker's thread with the readings of every exit, in the order of `add`."""
        self._report = report
        self._lock = threading.Lock()  # guards the two fields below
        self._waiting: deque[Labelled] = deque()
        self._used_bytes = 0
        self._under_way: tuple[Labelled, Passage] | None = None

    def add(self, sentences: Sequence[Labelled]) -> None:
        """Let sentences wait for their runs, all or none. Raises Overloaded, or TooLarge for too many at once."""
        num_bytes = sum(one.num_bytes for one in sentences)
        if num_bytes > MOST_BYTES:
            raise TooLarge(f"the text would take {num_bytes} bytes while it waits; the limit is {MOST_BYTES}; cut it")
        with self._lock:
            if self._used_bytes + num_bytes > MOST_BYTES:
                raise Overloaded(
                    f"{len(self._waiting)} sentences with their entities wait for idle time already; send it later",
                    retry_after_s=RETRY_AFTER_S,
                )
            self._waiting.extend(sentences)
            self._used_bytes += num_bytes

    @property
    def has_work(self) -> bool:
        """Whether any sentence waits or is under way."""
        return self._under_way is not None or bool(self._waiting)

    @property
    def waiting(self) -> int:
        """How many sentences wait; any thread may look."""
        return len(self._waiting)

    def run_layer(self, stepper: Stepper) -> None:
        """Run the next layer of the oldest sentence, or report it when it is at full depth.

        If that fails, the sentence is dropped, and the error is raised.
        """
        if self._under_way is None:
            with self._lock:
                one = self._waiting.popleft()
                self._used_bytes -= one.num_bytes
            self._under_way = one, Passage(one.sequence, FullDepth(), keeps_every_exit=True)
        one, passage = self._under_way
        try:
            if passage.exit_reason is None:
                stepper.advance([passage])
                return
            self._report(passage.seen, one)
        except Exception:
            self._under_way = None
            raise
        self._under_way = None
