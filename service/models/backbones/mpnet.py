"""MPNet (Song et al. 2020): BERT without token types, whose attention adds a bias by distance, shared by all layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from service.errors import ModelRefused
from service.models.backbones import bert
from service.models.backbones.family import Family
from service.models.config import EncoderConfig
from service.models.relative_bias import BUCKETS

EMBEDDINGS = {
    "pieces": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "norm": "embeddings.LayerNorm",
    "relative_bias": "encoder.relative_attention_bias",
}
LAYER = {
    **bert.LAYER,
    "attention.query": "attention.attn.q",
    "attention.key": "attention.attn.k",
    "attention.value": "attention.attn.v",
    "attention.output": "attention.attn.o",
    "attention_norm": "attention.LayerNorm",
}
_POSITION_OFFSET = 2  # positions begin after padding's 1, whatever pad_token_id is


def config(theirs: Mapping[str, Any]) -> EncoderConfig:
    """Read the config by BERT's field names. Raises ModelRefused for another number of buckets of distances."""
    if (given := theirs["relative_attention_num_buckets"]) != BUCKETS:  # Transformers uses 32 of them even so
        raise ModelRefused(
            f"this MPNet's relative_attention_num_buckets is {given}; expected {BUCKETS}, as all released"
        )
    plain = bert.config({**theirs, "type_vocab_size": 0})
    return replace(plain, position_offset=_POSITION_OFFSET, relative_bias=True)


FAMILY = Family("mpnet", ("mpnet.",), EMBEDDINGS, bert.LAYERS, LAYER, config)
