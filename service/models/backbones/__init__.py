"""How each family of Transformers checkpoints maps onto our encoder: one small file a family, registered here."""

from __future__ import annotations

from collections.abc import Mapping

from service.models.backbones import albert, bert, distilbert, electra, roberta
from service.models.backbones.family import Family

FAMILIES: Mapping[str, Family] = {
    family.name: family for family in (bert.FAMILY, roberta.FAMILY, electra.FAMILY, distilbert.FAMILY, albert.FAMILY)
}
