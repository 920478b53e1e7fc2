"""Makes the assets that `service.exits` needs for its strategies from a loaded model's config and tables."""

from __future__ import annotations

from service.exits.assets import ModelAssets
from service.exits.policies.de3 import Prototypes
from service.exits.policies.hashee import HashedLayers
from service.exits.policies.tokee import HaltingTraining
from service.models.multi_exit import MultiExitModel


def assets_of(model: MultiExitModel) -> ModelAssets:
    """Return a model's depth, exits and what its training stored for strategies; calibration adds the learned rule."""
    config = model.config
    assets = ModelAssets(config.num_layers, has_one_exit=config.hash is not None or not config.has_early_exits)
    if config.halting:
        assets = assets.with_asset(HaltingTraining())
    if config.prototypes:
        assets = assets.with_asset(Prototypes(model.get_buffer("prototypes").cpu().float().numpy()))
    return assets if config.hash is None else assets.with_asset(hashed_layers(model))


def hashed_layers(model: MultiExitModel) -> HashedLayers:
    """Return the layers after which words halt, by the hash of a model that has one."""
    table = model.get_buffer("piece_layers").cpu().numpy()
    return HashedLayers(table, model.config.num_layers, model.config.buckets)
