"""What has happened under the exit policy: the counts, and a value made of them. The counts' owner holds a lock."""

from __future__ import annotations

from dataclasses import dataclass, field

from service.exits.disagreement import Disagreement
from service.exits.policy import ExitPolicy


@dataclass(frozen=True, slots=True)
class Observed:
    """What has happened under one version.

    average_exit_layer  layers run per sequence; None before the first sequence
    sequences           how many sequences left
    since               when the version came into force, ISO 8601 in UTC
    shadow              what shadow runs found of its policy
    """

    average_exit_layer: float | None
    sequences: int
    since: str
    shadow: Disagreement


@dataclass(slots=True)
class Counts:
    """Counts of one version, and of shadow runs by policy, since a person last changed the policy.

    Shadow runs are counted by policy, so that their counts still hold when the autopilot returns to a policy.

    layers  layers run, summed over the sequences that left
    """

    layers: float = 0
    sequences: int = 0
    shadows: dict[ExitPolicy, Disagreement] = field(default_factory=dict)

    def sequence_left(self, layers_run: float) -> None:
        """Count a sequence that left after it ran so many layers."""
        self.layers += layers_run
        self.sequences += 1

    def shadow_done(self, policy: ExitPolicy, disagrees: bool) -> None:
        """Count a shadow run of a sequence that left early under `policy`, and whether full depth disagrees."""
        self.shadows[policy] = self.disagreement(policy).plus(disagrees)

    def disagreement(self, policy: ExitPolicy) -> Disagreement:
        """Return what shadow runs found of a policy."""
        return self.shadows.get(policy, Disagreement())

    def observed(self, policy: ExitPolicy, since: str) -> Observed:
        """Return the counts as a value, for a version whose policy has been in force since `since`."""
        average = self.layers / self.sequences if self.sequences else None
        return Observed(average, self.sequences, since, self.disagreement(policy))
