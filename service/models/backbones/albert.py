"""ALBERT (Lan et al. 2020): one set of weights for all layers, and factorised embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from service.errors import ModelRefused
from service.models.backbones import bert
from service.models.backbones.family import Family
from service.models.config import EncoderConfig

EMBEDDINGS = {**bert.EMBEDDINGS, "projection": "encoder.embedding_hidden_mapping_in"}
LAYER = {
    "attention.query": "attention.query",
    "attention.key": "attention.key",
    "attention.value": "attention.value",
    "attention.output": "attention.dense",
    "attention_norm": "attention.LayerNorm",
    "up": "ffn",
    "down": "ffn_output",
    "output_norm": "full_layer_layer_norm",
}


def config(theirs: Mapping[str, Any]) -> EncoderConfig:
    """Read the config as BERT's, with shared layers.

    Raises ModelRefused for several groups of layers, and for embeddings as wide as the layers.
    """
    if (theirs["num_hidden_groups"], theirs["inner_group_num"]) != (1, 1):
        raise ModelRefused("this ALBERT has several groups of layers; expected one group of one layer, as all released")
    if theirs["embedding_size"] == theirs["hidden_size"]:  # ALBERT projects them even so; our encoder would not
        raise ModelRefused("this ALBERT's embedding_size is its hidden_size; expected a smaller one, as all released")
    return replace(bert.config(theirs), shared_layers=True)


FAMILY = Family("albert", ("albert.",), EMBEDDINGS, "encoder.albert_layer_groups.0.albert_layers.0", LAYER, config)
