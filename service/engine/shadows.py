"""Shadow runs: some sequences that left early go on to full depth in idle time, to see whether leaving cost them.

Nobody waits for a shadow. It continues where its sequence left, after the answer, and takes over the sequence's state
on the device; if words of it halted one by one, it starts anew. It runs a step at a time, and only while no request
has a step to run; so it delays a request by one step at most: a layer, or on a GPU all that are left. Only a few are
kept: in a peak, new ones replace the oldest. So quiet times are sampled more than busy ones, and the findings hold for
the texts of quiet times.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from service.engine.sequence import Sequence
from service.exits.policies.full_depth import FullDepth
from service.policy.captured import CapturedPolicy
from service.spans.types import Span
from service.stepping.passage import Passage
from service.stepping.stepper import Stepper

MOST_KEPT = 8  # sequences whose states stay on the device, about 10 MB in all at most
Report = Callable[[CapturedPolicy, bool], None]


@dataclass(frozen=True, slots=True)
class Shadow:
    """A passage on its way to full depth.

    left_under  the policy under which its sequence left early
    answered    the entities that its sequence answered, as (start, end, label)
    """

    passage: Passage
    left_under: CapturedPolicy
    answered: frozenset[tuple[int, int, int]]


class Shadows:
    """The shadows that wait to run. They belong to the engine's worker, and to no other thread."""

    def __init__(
        self,
        fraction: float = 0.0,
        report: Report = lambda captured, disagrees: None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """Keep `fraction` of the sequences that leave early, each if `draw` returns a number in [0, 1) below it.

        report: called with the policy under which a sequence left, and with whether full depth disagrees
        """
        self._fraction = fraction
        self._report = report
        self._draw = draw
        self._waiting: deque[Shadow] = deque(maxlen=MOST_KEPT)

    @property
    def has_work(self) -> bool:
        """Whether any shadow waits."""
        return bool(self._waiting)

    def offer(self, left: Sequence, num_layers: int) -> None:
        """Keep an answered sequence that still holds its state, if it left early without an override and is drawn."""
        captured = left.request.policy
        if captured.is_override or left.layers_run == num_layers or self._draw() >= self._fraction:
            return
        self._waiting.append(Shadow(left.goes_on_under(FullDepth()), captured, _entities(left.spans)))

    def run_layer(self, stepper: Stepper) -> None:
        """Run the next step of the oldest shadow. If the stepper raises, drop the shadow and raise the error."""
        shadow = self._waiting.popleft()
        stepper.advance([shadow.passage])
        if shadow.passage.exit_reason is None:
            self._waiting.appendleft(shadow)
            return
        (spans,) = stepper.read_spans([shadow.passage])
        self._report(shadow.left_under, _entities(spans) != shadow.answered)

    def drop(self) -> None:
        """Drop all shadows."""
        self._waiting.clear()


def _entities(spans: list[Span]) -> frozenset[tuple[int, int, int]]:
    """Return spans as (start, end, label), without their scores."""
    return frozenset((span.start, span.end, span.label) for span in spans)
