"""Fits to a traffic, made by hand, for a model of four layers. No test lives here."""

from __future__ import annotations

from typing import Any

from service.policy.traffic_fits import TrafficFit
from tests.exits.calibrations_ import NUM_LAYERS
from tests.exits.tables_ import random_rule


def fitted(*taus: float, seed: int = 7) -> dict[str, Any]:
    """What is installed: a point for each tau, ascending and so the safest first; each errs more, and saves more."""
    points = []
    for index, tau in enumerate(taus):
        loss, layer = 0.5 * (1 + index), 3.0 - 0.5 * index
        points.append(
            {
                "tau": tau,
                "deepest_exit": 3,
                "f1": 100 - loss,
                "f1_interval": [99.0 - loss, 100.0],
                "f1_loss": loss,
                "f1_loss_interval": [0.0, 1 + loss],
                "average_exit_layer": layer,
                "average_exit_layer_interval": [layer - 0.1, layer + 0.1],
                "average_exit_layer_by_token": layer + 0.1,
                "speedup_layers": NUM_LAYERS / layer,
                "speedup_latency": 1.0 + 0.5 * (1 + index),
            }
        )
    rule = random_rule(NUM_LAYERS, seed=seed)
    return {"rule": rule.to_json(), "points": points[::-1], "provenance": {"samples": 400}}


def fit(number: int, *taus: float) -> TrafficFit:
    return TrafficFit.from_json({**fitted(*taus or (0.1, 0.2), seed=number), "fit": number, "at": "noon"}, NUM_LAYERS)
