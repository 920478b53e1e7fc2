"""BERT (Devlin et al. 2019), and the base that most other families vary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.models.backbones.family import Family, activation
from service.models.config import EncoderConfig

EMBEDDINGS = {
    "pieces": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "types": "embeddings.token_type_embeddings",
    "norm": "embeddings.LayerNorm",
}
LAYERS = "encoder.layer.{index}"
LAYER = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "output_norm": "output.LayerNorm",
}


def config(theirs: Mapping[str, Any]) -> EncoderConfig:
    """Read the config by BERT's field names, which RoBERTa, ELECTRA, ALBERT and MPNet share and add to."""
    return EncoderConfig(
        family=theirs["model_type"],
        vocab_size=theirs["vocab_size"],
        embedding_size=theirs.get("embedding_size", theirs["hidden_size"]),
        hidden_size=theirs["hidden_size"],
        num_layers=theirs["num_hidden_layers"],
        num_heads=theirs["num_attention_heads"],
        intermediate_size=theirs["intermediate_size"],
        max_positions=theirs["max_position_embeddings"],
        type_vocab_size=theirs["type_vocab_size"],
        activation=activation(theirs["hidden_act"]),
        layer_norm_eps=theirs["layer_norm_eps"],
    )


FAMILY = Family("bert", ("bert.",), EMBEDDINGS, LAYERS, LAYER, config)
