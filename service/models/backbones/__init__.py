"""How each family of Transformers checkpoints maps onto our encoder: one small file a family, registered here."""

from __future__ import annotations

from collections.abc import Mapping

from service.models.backbones import albert, bert, distilbert, electra, mpnet, roberta
from service.models.backbones.family import Family

FAMILIES: Mapping[str, Family] = {
    module.FAMILY.name: module.FAMILY for module in (bert, roberta, electra, distilbert, albert, mpnet)
}
