"""RoBERTa (Liu et al. 2019): BERT whose positions begin after the padding index."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from service.models.backbones import bert
from service.models.backbones.family import Family
from service.models.config import EncoderConfig


def config(theirs: Mapping[str, Any]) -> EncoderConfig:
    """Read the config as BERT's; positions begin after the padding index."""
    return replace(bert.config(theirs), position_offset=theirs["pad_token_id"] + 1)


FAMILY = Family("roberta", ("roberta.",), bert.EMBEDDINGS, bert.LAYERS, bert.LAYER, config)
