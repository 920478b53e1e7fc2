"""A calibration made by hand, for a model of four layers. No test lives here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from service.exits.operating_points import Calibration, OperatingPoint, Preset
from service.exits.policies.budgeted import Budgeted
from service.exits.policies.full_depth import FullDepth
from service.exits.policies.gated_vote import GatedVote
from service.exits.policies.learned import Learned
from service.exits.policies.pabee import Pabee
from service.exits.policies.sentee import Sentee
from service.exits.policies.vee import Vee
from service.exits.policy import ExitPolicy
from service.models.store import load_model, write_operating_points
from tests.exits.tables_ import random_rule

NUM_LAYERS = 4
FULL_DEPTH_F1 = 83.0
RULE = random_rule(NUM_LAYERS)

FAST = Sentee(tau=0.4)
BALANCED = GatedVote(tau=0.2, gate=0.6)
SLOW_TO_DECIDE = Learned(tau=0.05, rule=RULE)  # few layers, but no faster
ACCURATE = Vee(measure="js", pooling="max", tau=-0.25)  # more accurate than full depth
VEE_BY_MEAN_KL = Vee(tau=-0.004, patience=2)
PATIENT = Pabee(patience=2)


def point(
    policy: ExitPolicy, f1: float, layer: float, speedup_latency: float, preset: Preset | None = None
) -> OperatingPoint:
    """An operating point around a few of its figures."""
    loss = round(FULL_DEPTH_F1 - f1, 3)
    return OperatingPoint(
        parameters=policy.to_json(),
        f1=f1,
        f1_interval=(f1 - 1, f1 + 1),
        f1_loss=loss,
        f1_loss_interval=(loss - 0.5, loss + 0.5),
        average_exit_layer=layer,
        average_exit_layer_interval=(layer - 0.125, layer + 0.125),
        average_exit_layer_by_token=layer + 0.25,
        speedup_layers=NUM_LAYERS / layer,
        speedup_latency=speedup_latency,
        preset=preset,
    )


CALIBRATION = Calibration(
    points=(
        point(FAST, 79.0, 1.312, 2.847, "fast"),
        point(BALANCED, 82.0, 1.875, 2.113, "balanced"),
        point(SLOW_TO_DECIDE, 82.4, 2.064, 1.204),
        point(ACCURATE, 83.127, 2.618, 1.512, "accurate"),
    ),
    others=(
        point(VEE_BY_MEAN_KL, 81.5, 2.375, 1.625),
        point(PATIENT, 81.0, 2.25, 1.75),
        point(Budgeted(2), 81.7, 2.0, 1.938),
        point(FullDepth(), FULL_DEPTH_F1, 4.0, 1.0),
    ),
    rule=RULE,
    provenance={"data": "by hand", "weights_sha256": "0" * 64},
)


def put_calibration(folder: Path) -> Path:
    """Write CALIBRATION into a model folder, as measured on its weights; -> `folder`."""
    provenance = {**CALIBRATION.provenance, "weights_sha256": load_model(folder).weights_sha256}
    write_operating_points(folder, replace(CALIBRATION, provenance=provenance).to_json())
    return folder
