"""What a request takes from the live exit policy. Whence it comes is the business of `service.policy.live`."""

from __future__ import annotations

from dataclasses import dataclass

from service.exits.policy import ExitPolicy


@dataclass(frozen=True, slots=True)
class CapturedPolicy:
    """The exit policy that a request is decided by, and the version of the live policy it was captured at."""

    policy: ExitPolicy
    version: int
    is_override: bool = False
