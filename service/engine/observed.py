"""What has happened under the exit policy in force, as GET /exit-policy shows it. Whoever owns it guards it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from service.exits.disagreement import Disagreement
from service.exits.policy import ExitPolicy


@dataclass(slots=True)
class Observed:
    """Counts of one version; but shadow runs count by policy, since the version that a person made last.

    The autopilot comes back to a policy, and then so does what was found of it.
    """

    layers: float = 0
    sequences: int = 0
    shadows: dict[ExitPolicy, Disagreement] = field(default_factory=dict)

    def sequence_left(self, exit_layer: float) -> None:
        """One more answer."""
        self.layers += exit_layer
        self.sequences += 1

    def shadow_done(self, policy: ExitPolicy, disagrees: bool) -> None:
        """One early leaver of `policy` was run on to full depth, and had other entities there or not."""
        self.shadows[policy] = self.disagreement(policy).plus(disagrees)

    def disagreement(self, policy: ExitPolicy) -> Disagreement:
        """What shadow runs found of a policy."""
        return self.shadows.get(policy, Disagreement())

    def to_json(self, policy: ExitPolicy, since: str) -> dict[str, Any]:
        """As on the wire, for the policy in force."""
        return {
            "average_exit_layer": self.layers / self.sequences if self.sequences else None,
            "sequences": self.sequences,
            "since": since,
            "shadow": self.disagreement(policy).to_json(),
        }
