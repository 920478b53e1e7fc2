"""DistilBERT (Sanh et al. 2019): BERT without token types, under names of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.models.backbones.family import Family, activation
from service.models.config import EncoderConfig

EMBEDDINGS = {
    "pieces": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "norm": "embeddings.LayerNorm",
}
LAYER = {
    "attention.query": "attention.q_lin",
    "attention.key": "attention.k_lin",
    "attention.value": "attention.v_lin",
    "attention.output": "attention.out_lin",
    "attention_norm": "sa_layer_norm",
    "up": "ffn.lin1",
    "down": "ffn.lin2",
    "output_norm": "output_layer_norm",
}


def config(theirs: Mapping[str, Any]) -> EncoderConfig:
    """Read the config by DistilBERT's own field names; its LayerNorm epsilon is always the same."""
    return EncoderConfig(
        family="distilbert",
        vocab_size=theirs["vocab_size"],
        embedding_size=theirs["dim"],
        hidden_size=theirs["dim"],
        num_layers=theirs["n_layers"],
        num_heads=theirs["n_heads"],
        intermediate_size=theirs["hidden_dim"],
        max_positions=theirs["max_position_embeddings"],
        type_vocab_size=0,
        activation=activation(theirs["activation"]),
        layer_norm_eps=1e-12,
    )


FAMILY = Family("distilbert", ("distilbert.",), EMBEDDINGS, "transformer.layer.{index}", LAYER, config)
