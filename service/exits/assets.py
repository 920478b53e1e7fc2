"""Describes what a model offers to exit strategies: its depth, its exits, and what training or calibration left."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

Asset = TypeVar("Asset")


@dataclass(frozen=True, slots=True)
class ModelAssets:
    """Holds what a strategy may need of a model.

    num_layers    of the encoder
    has_one_exit  whether one exit serves all layers, as in a model trained under a hash, or there is none before the
                  last layer, as in a token classifier served as it is; else every layer has its own
    assets        what only some strategies need, such as the weights of a rule; at most one of each type
    """

    num_layers: int
    has_one_exit: bool = False
    assets: tuple[object, ...] = ()

    def get(self, kind: type[Asset]) -> Asset | None:
        """Return the asset of a type, or None where the model has none."""
        return next((asset for asset in self.assets if isinstance(asset, kind)), None)

    def with_asset(self, asset: object | None) -> ModelAssets:
        """Return a copy with one more asset; for None, return the same object."""
        return self if asset is None else replace(self, assets=(*self.assets, asset))
