"""What the training of a model prepared it for: its config and tables, as the strategies that need them want them."""

from __future__ import annotations

from service.exits.catalog import Trained
from service.exits.hashing import HashedLayers
from service.exits.prototypes import Prototypes
from service.models.multi_exit import MultiExitModel


def trained_for(model: MultiExitModel) -> Trained:
    """Beside the strategies that every model has."""
    config = model.config
    return Trained(
        halting=config.halting,
        layers=None if config.hash is None else hashed_layers(model),
        prototypes=Prototypes(model.get_buffer("prototypes").cpu().float().numpy()) if config.prototypes else None,
    )


def hashed_layers(model: MultiExitModel) -> HashedLayers:
    """What the hash of a model that has one says of words."""
    table = model.get_buffer("piece_layers").cpu().numpy()
    return HashedLayers(table, model.config.num_layers, model.config.buckets)
