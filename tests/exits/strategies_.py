"""Which strategies there are, and models to run them on. No test lives here."""

from __future__ import annotations

from service.exits.assets import ModelAssets
from service.exits.policies import STRATEGIES
from service.exits.policies.learned import ExitRule
from service.exits.policies.learned_on_traffic import LearnedOnTraffic, TrafficRules

REPLAYED = {name: strategy for name, strategy in STRATEGIES.items() if strategy.is_replayable}
WITHOUT_TRAFFIC = REPLAYED.keys() - {LearnedOnTraffic.strategy}  # of a model before a fit


def model_of(num_layers: int, rule: ExitRule | None = None) -> ModelAssets:
    """A model without any training of its own kind; rule: what calibration left in it, also as fit 1 to a traffic."""
    return ModelAssets(num_layers).with_asset(rule).with_asset(TrafficRules({1: rule}) if rule else None)
