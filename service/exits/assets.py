"""What a model brings for the exit strategies: its depth, its exits, and what training or calibration left."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

Asset = TypeVar("Asset")


@dataclass(frozen=True, slots=True)
class ModelAssets:
    """What a strategy may need of a model.

    num_layers   of the encoder
    has_one_exit one exit for all layers, as a model trained under a hash has; else there is one after every layer
    assets       what single strategies need, such as the weights of a rule; at most one of each type
    """

    num_layers: int
    has_one_exit: bool = False
    assets: tuple[object, ...] = ()

    def get(self, kind: type[Asset]) -> Asset | None:
        """Return the asset of a type, or None where the model has none."""
        return next((asset for asset in self.assets if isinstance(asset, kind)), None)

    def with_asset(self, asset: object | None) -> ModelAssets:
        """Return the same with one more asset; None adds nothing."""
        return self if asset is None else replace(self, assets=(*self.assets, asset))
