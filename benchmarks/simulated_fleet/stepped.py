"""The service's engine on a simulated clock: who moves the clock begins and ends its steps, in place of its worker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Seq
from typing import Any

from benchmarks.simulated_fleet.recording import Recording
from service.autopilot.traffic import Traffic
from service.engine.engine import Engine
from service.engine.reuse import ReuseSource
from service.engine.scheduler import Step
from service.engine.sequence import Request, Sequence
from service.policy.captured import CapturedPolicy
from service.spans.types import Span
from service.stepping.passage import Passage


class SteppedEngine(Engine):
    """An engine without a thread. `answered` are the requests that it has answered; whoever reads them empties it."""

    def __init__(self, *given: Any, **options: Any) -> None:
        """See Engine."""
        super().__init__(*given, **options)
        self.answered: list[Request] = []

    def begin(self) -> Step | None:
        """Take the newcomers and return the next step that somebody waits for; None where nothing is to be done."""
        for request in self._newcomers:
            self._scheduler.add(request.sequences)
        self._newcomers.clear()
        while self._scheduler.has_work:
            step = self._schedule()
            if step.sequences:
                return step
            self._settle(step, [])
        return None

    def end(self, step: Step) -> None:
        """Run and settle a step at the moment at which it is over."""
        self._settle(step, self._run(step))

    def _hand_over(self) -> None:
        """Keep what was answered, in place of telling whoever waits."""
        self.answered.extend(self._answered)
        self._answered.clear()


class RecordedStepper:
    """Moves sequences of a recording through a layer; they leave where they left when it was made."""

    def __init__(self, recording: Recording) -> None:
        self.num_layers = recording.num_layers
        self._exit_layers = {
            id(policy): recording.exit_layers(name) for name, policy in recording.policies.items()
        }  # by policy, by sequence
        self._exits = {
            id(policy): {layer for layer in range(1, self.num_layers) if policy.needs_exit(layer, self.num_layers)}
            for policy in recording.policies.values()
        }  # by policy: after which layers it looks

    def advance(self, passages: Seq[Passage]) -> None:
        """Move passages through a layer; see Stepper."""
        for passage in passages:
            passage.history.append(())
            if len(passage.history) >= self._exit_layers[id(passage.policy)][id(passage.input)]:
                passage.exit_reason = "recorded"

    def read_spans(self, passages: Seq[Passage]) -> list[list[Span]]:
        """Return no spans: nothing was read."""
        return [[] for _ in passages]

    def work_of(self, step: Step) -> tuple[bool, int, int]:
        """Return whether the exit after a step's layer runs, how many policies look at it, and how many leave there.

        After the last layer no policy looks.
        """
        layer, looked_at, leave = step.layer, 0, 0
        for sequence in step.sequences:
            policy = id(sequence.policy)
            looked_at += layer in self._exits[policy]
            leave += layer >= self._exit_layers[policy][id(sequence.input)]
        return looked_at > 0 or layer == self.num_layers, looked_at, leave


class InForce:
    """The policy in force on one process; see `service.engine.engine.PolicySource`."""

    def __init__(self, policies: Iterable[tuple[str, Any]], first: str) -> None:
        numbered = list(enumerate(policies, start=1))
        self._captured = {name: CapturedPolicy(policy, version) for version, (name, policy) in numbered}
        self._names = {version: name for version, (name, _) in numbered}
        self.use(first)

    def use(self, name: str) -> None:
        """Put a policy in force."""
        self._current = self._captured[name]

    def name_of(self, captured: CapturedPolicy) -> str:
        """Return the name of a policy that a request captured."""
        return self._names[captured.version]

    def capture(self, override: Mapping[str, Any] | None = None) -> CapturedPolicy:
        """Return the policy in force."""
        return self._current

    def renew(self, captured: CapturedPolicy, override: Mapping[str, Any] | None) -> CapturedPolicy:
        """Return the policy in force."""
        return self._current


class Told:
    """What the engine tells, as the server passes it on to the autopilot; and the layers that ran.

    layers, sequences  layers run, and sequences that left
    """

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self.layers = self.sequences = 0

    def step_done(self, layer: int, sequences: int, pieces: int, seconds: float) -> None:
        """Pass on the seconds of a step."""
        self._traffic.step_done(seconds)

    def sequence_left(self, sequence: Sequence, num_layers: int) -> None:
        """Pass on the pieces of a sequence."""
        self._traffic.sequence_left(sequence.input.num_pieces)
        self.layers += sequence.layer
        self.sequences += 1

    def sequence_reused(self, sequence: Sequence, source: ReuseSource) -> None:
        """Ignore it: no two sequences are equal here."""

    def queue_changed(self, waiting: int, running: int) -> None:
        """Ignore it."""
