"""What the engine's benchmarks share: an engine in this process, as the server builds it, and policies to run on it."""

from __future__ import annotations

import torch

from service.engine.engine import Engine, EngineLimits
from service.engine.runner import ModelRunner
from service.engine.sequence import CapturedPolicy, Sequence
from service.exits.operating_points import PRESETS, Calibration
from service.exits.policy import ExitPolicy
from service.models.device import available_cores, use_threads
from service.models.store import StoredModel


class Silent:
    """An observer that watches nothing."""

    def step_done(self, layer: int, sequences: int, pieces: int, seconds: float) -> None:
        """Ignored."""

    def sequence_left(self, sequence: Sequence, num_layers: int) -> None:
        """Ignored."""

    def queue_changed(self, waiting: int, running: int) -> None:
        """Ignored."""


class PolicyInForce:
    """The policy that a request captures; benchmarks change it between requests."""

    def __init__(self, policy: ExitPolicy) -> None:
        self.policy = policy

    def capture(self, _: object = None) -> CapturedPolicy:
        """As `Controls.capture`."""
        return CapturedPolicy(self.policy, version=1)


def start_engine(stored: StoredModel, device: torch.device, in_force: PolicyInForce, limits: EngineLimits) -> Engine:
    """A started engine; its worker is the first thread to ask for more than one, as in the server."""
    use_threads(1)
    engine = Engine(
        ModelRunner(stored.model, device),
        capture=in_force.capture,
        limits=limits,
        observer=Silent(),
        prepare=lambda: use_threads(available_cores()),
    )
    engine.start()
    return engine


def policies_of(stored: StoredModel) -> tuple[Calibration, dict[str, ExitPolicy]]:
    """The calibration of a model; full depth, its presets and the static cuts."""
    if stored.operating_points is None:
        raise SystemExit(f"{stored.reference} is not calibrated")
    num_layers = stored.config.num_layers
    calibration = Calibration.from_json(stored.operating_points, num_layers)
    catalog = calibration.catalog(num_layers)
    policies = {"full_depth": catalog.policy({"strategy": "full_depth"})}
    for preset in PRESETS:
        policies[preset] = catalog.policy(calibration.choose("preset", preset).parameters)
    for layer in range(1, num_layers):
        policies[f"budgeted {layer}"] = catalog.policy({"strategy": "budgeted", "layer": layer})
    return calibration, policies
