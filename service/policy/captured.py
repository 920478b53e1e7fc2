"""The policy that a request captures from the live exit policy. How it is captured is in `service.policy.live`."""

from __future__ import annotations

from dataclasses import dataclass

from service.exits.policy import ExitPolicy


@dataclass(frozen=True, slots=True)
class CapturedPolicy:
    """The exit policy that decides a request, and the version of the live policy when it was captured.

    is_override  whether the request changed the policy for itself alone
    local_moves  how often the autopilot of this replica had moved under that version; see PolicyVersion
    """

    policy: ExitPolicy
    version: int
    is_override: bool = False
    local_moves: int = 0
