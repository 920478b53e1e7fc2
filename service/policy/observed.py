"""What has happened under the exit policy: counted, and as a value. Whoever owns the counts guards them."""

from __future__ import annotations

from dataclasses import dataclass, field

from service.exits.disagreement import Disagreement
from service.exits.policy import ExitPolicy


@dataclass(frozen=True, slots=True)
class Observed:
    """What has happened under one version.

    average_exit_layer  of its sequences; None before the first
    since               ISO 8601 in UTC
    shadow              what shadow runs found of its policy
    """

    average_exit_layer: float | None
    sequences: int
    since: str
    shadow: Disagreement


@dataclass(slots=True)
class Counts:
    """Counts of one version; but shadow runs count by policy, since the version that a person made last.

    The autopilot comes back to a policy, and then so does what was found of it.
    """

    layers: float = 0
    sequences: int = 0
    shadows: dict[ExitPolicy, Disagreement] = field(default_factory=dict)

    def sequence_left(self, layers_run: float) -> None:
        """Count one more answer."""
        self.layers += layers_run
        self.sequences += 1

    def shadow_done(self, policy: ExitPolicy, disagrees: bool) -> None:
        """Count an early leaver of `policy` that was run on to full depth, and had other entities there or not."""
        self.shadows[policy] = self.disagreement(policy).plus(disagrees)

    def disagreement(self, policy: ExitPolicy) -> Disagreement:
        """Return what shadow runs found of a policy."""
        return self.shadows.get(policy, Disagreement())

    def observed(self, policy: ExitPolicy, since: str) -> Observed:
        """Return what was counted, for the version that has been of `policy` since then."""
        average = self.layers / self.sequences if self.sequences else None
        return Observed(average, self.sequences, since, self.disagreement(policy))
