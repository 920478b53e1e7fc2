"""Tells metrics about the exit policy: which one is in force, who changed it, where the autopilot moved."""

from __future__ import annotations

from service.metrics.policy import PolicyMetrics
from service.policy.versions import PolicyVersion


class PolicyObserver:
    """Is told of every version of the policy that comes into force; the first is the version found at start."""

    def __init__(self, metrics: PolicyMetrics) -> None:
        self._metrics = metrics
        self._before: PolicyVersion | None = None

    def store_used(self, could_be: bool) -> None:
        """Record whether the store of the policy could be used."""
        self._metrics.set_store_up(could_be)

    def policy_changed(self, version: PolicyVersion) -> None:
        """Record a version that came into force. The version found at start is not counted as a change."""
        self._metrics.set_in_force(
            version.policy.to_json(),
            version=version.version,
            expected=version.expected,
            objective_p95_s=version.objective.p95_ms / 1_000 if version.objective else None,
            level=version.level or 0,
        )
        before, self._before = self._before, version
        if before is None:
            return
        self._metrics.changed(version.updated_by)
        if version.updated_by == "autopilot":
            self._metrics.autopilot_moved("faster" if (version.level or 0) > (before.level or 0) else "slower")
