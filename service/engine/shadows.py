"""Shadow runs: some sequences that left early go on to full depth in idle time, to see whether leaving cost them.

Nobody waits for a shadow. It begins where its sequence left, after the answer, and takes over what that one held on
the device. It runs a layer at a time, and only while no request has a step to run; so the most that it can delay one is
the layer it is in. Few are kept: in a peak the oldest make way. So quiet times are sampled more than busy ones, and
what is found holds for the texts of quiet times.
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

MOST_KEPT = 8  # sequences whose states stay on the device, some 10 MB of them at the most
Report = Callable[[CapturedPolicy, bool], None]


@dataclass(frozen=True, slots=True)
class Shadow:
    """A passage on its way to full depth.

    left_under, answered  the policy and the entities that its sequence left early with
    """

    passage: Passage
    left_under: CapturedPolicy
    answered: frozenset[tuple[int, int, int]]


class Shadows:
    """The lane that all others go before. It belongs to the engine's worker, and to no other thread."""

    def __init__(
        self,
        fraction: float = 0.0,
        report: Report = lambda captured, disagrees: None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """fraction: of early leavers; report: told the policy that one left under, and whether full depth disagrees.

        draw: yields a number in [0, 1) for every early leaver
        """
        self._fraction = fraction
        self._report = report
        self._draw = draw
        self._waiting: deque[Shadow] = deque(maxlen=MOST_KEPT)

    @property
    def has_work(self) -> bool:
        """Whether any waits."""
        return bool(self._waiting)

    def offer(self, left: Sequence, num_layers: int) -> None:
        """Keep a sequence that was answered and holds its state yet, if it left early and the draw says so."""
        captured = left.request.policy
        if captured.is_override or left.layers_run == num_layers or self._draw() >= self._fraction:
            return
        self._waiting.append(Shadow(left.goes_on_under(FullDepth()), captured, _entities(left.spans)))

    def run_layer(self, stepper: Stepper) -> None:
        """Run the next layer of the one that waits longest. What the stepper raises costs that one, and is raised."""
        shadow = self._waiting.popleft()
        stepper.advance([shadow.passage])
        if shadow.passage.exit_reason is None:
            self._waiting.appendleft(shadow)
            return
        (spans,) = stepper.read_spans([shadow.passage])
        self._report(shadow.left_under, _entities(spans) != shadow.answered)

    def drop(self) -> None:
        """Forget all that wait."""
        self._waiting.clear()


def _entities(spans: list[Span]) -> frozenset[tuple[int, int, int]]:
    """Without their scores."""
    return frozenset((span.start, span.end, span.label) for span in spans)
