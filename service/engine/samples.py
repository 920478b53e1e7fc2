"""Sample runs: sentences that were drawn when they started run to full depth in idle time, with all exits.

Which are drawn, and where they wait, `service.promise.sampling` knows. Nobody waits for a sample. It runs a layer at a
time, and only while no request has a step to run; so it delays a request by one layer at most, or by one report. What
is drawn is run sooner or later, whatever happens to its request: peaks and quiet times are sampled alike.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from service.exits.policies.full_depth import FullDepth
from service.exits.reading import Reading
from service.promise.sampling import Sample, SampleBuffer, SampleCounts, SamplingDesign
from service.stepping.passage import Passage
from service.stepping.stepper import Stepper
from service.text.types import SequenceInput


@dataclass(frozen=True, slots=True)
class SampleRun:
    """What a sample has come to. Nothing else of its text is left.

    readings           of every exit, of this one sample; None if it could not be run
    owned              the words that it answers for, as in SequenceInput
    num_pieces         word pieces
    weight, heaviest   see `SampleBuffer`
    """

    readings: Sequence[Reading] | None
    owned: tuple[int, int]
    num_pieces: int
    weight: float
    heaviest: float


Report = Callable[[SampleRun], None]


class SampleRuns:
    """The samples that wait and the one that runs. They belong to the engine's worker, and to no other thread."""

    def __init__(self, design: SamplingDesign, report: Report, draw: Callable[[], float] = random.random) -> None:
        """Sample as `design` says.

        report: called with every sample's run, in the order in which samples were drawn
        draw:   returns independent random numbers, uniform in [0, 1)
        """
        self._buffer = SampleBuffer(design)
        self._report = report
        self._draw = draw
        self._under_way: tuple[Sample, Passage] | None = None

    @property
    def has_work(self) -> bool:
        """Whether any sample waits or is under way."""
        return self._under_way is not None or len(self._buffer) > 0

    @property
    def counts(self) -> SampleCounts:
        """What has happened to the sentences so far; any thread may look."""
        return self._buffer.counts

    @property
    def used_bytes(self) -> int:
        """What the waiting samples take; any thread may look."""
        return self._buffer.used_bytes

    @property
    def probability(self) -> float:
        """With which the next sentence is drawn; any thread may look."""
        return self._buffer.probability

    @property
    def design(self) -> SamplingDesign:
        """How is sampled."""
        return self._buffer.design

    def offer(self, sequence: SequenceInput) -> None:
        """Draw a sentence that starts, or let it pass."""
        self._buffer.offer(sequence, self._draw())

    def run_layer(self, stepper: Stepper) -> None:
        """Run the next layer of the oldest sample, or report it when it is at full depth.

        If that fails, it is reported as one that could not be run, so that no sample is ever missing, and the error is
        raised.
        """
        if self._under_way is None:
            sample = self._buffer.take()
            self._under_way = sample, Passage(sample.sequence(), FullDepth(), keeps_every_exit=True)
        sample, passage = self._under_way
        try:
            if passage.exit_reason is None:
                stepper.advance([passage])
                return
            self._report(self._run(sample, passage.seen))
        except Exception:
            self._under_way = None
            self._report(self._run(sample, None))
            raise
        self._under_way = None

    def _run(self, sample: Sample, readings: Sequence[Reading] | None) -> SampleRun:
        weight, heaviest = self._buffer.weight(sample), self._buffer.heaviest(sample)
        return SampleRun(readings, sample.owned, sample.num_pieces, weight, heaviest)
