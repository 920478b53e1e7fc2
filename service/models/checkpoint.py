"""Reads a Transformers checkpoint folder: encoder weights under our names, and the tokenizer. Training starts here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from service.errors import ModelRefused
from service.models.backbones import FAMILIES
from service.models.backbones.family import Family
from service.models.config import EncoderConfig
from service.models.encoder import Encoder

_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A pretrained encoder: its shape, its weights under `Encoder`'s names (float32), its tokenizer."""

    config: EncoderConfig
    weights: Mapping[str, Tensor]
    tokenizer: Tokenizer


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read `folder` (config.json, model.safetensors, tokenizer files).

    Raises ModelRefused for a folder that lacks a file or a weight, or whose family is none of FAMILIES.
    """
    from transformers import AutoConfig, AutoTokenizer  # slow to import, and serving never comes here

    if not (folder / "config.json").is_file():
        raise ModelRefused(f"{folder} has no config.json; expected a Transformers checkpoint folder")
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):  # else Transformers makes up an empty one
        raise ModelRefused(f"{folder} has no tokenizer; expected one of {list(_TOKENIZER_FILES)}")
    try:
        theirs: dict[str, Any] = AutoConfig.from_pretrained(folder).to_dict()
    except (OSError, ValueError) as error:
        raise ModelRefused(f"{folder}/config.json: {error}; known families are {sorted(FAMILIES)}") from error
    family = FAMILIES.get(theirs["model_type"])
    if family is None:
        raise ModelRefused(f"{folder} holds a {theirs['model_type']!r} model; known families are {sorted(FAMILIES)}")
    config = family.config(theirs)
    tokenizer: Tokenizer = AutoTokenizer.from_pretrained(folder).backend_tokenizer
    return Checkpoint(config, encoder_weights(family, config, _read(folder)), tokenizer)


def _read(folder: Path) -> dict[str, Tensor]:
    path = folder / "model.safetensors"
    if not path.is_file():
        raise ModelRefused(
            f"{folder} has no model.safetensors; a pickled pytorch_model.bin is not read: "
            "load the checkpoint with Transformers and call save_pretrained, which writes safetensors"
        )
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ModelRefused(f"{path} is no safetensors file: {error}") from error


def encoder_weights(family: Family, config: EncoderConfig, theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a checkpoint's weights to those of `Encoder.state_dict()`, which but for word shapes are all there."""
    source = {_plain_name(family, name): tensor for name, tensor in theirs.items()}

    def take(module: str) -> dict[str, Tensor]:
        found = {
            kind: source[f"{module}.{kind}"].float() for kind in ("weight", "bias") if f"{module}.{kind}" in source
        }
        if not found:
            raise ModelRefused(f"the checkpoint lacks {module}, which a {family.name} model has")
        return found

    ours: dict[str, Tensor] = {}
    for module, name in family.embeddings.items():
        if module == "projection" and config.embedding_size == config.hidden_size:
            continue
        ours |= {f"embeddings.{module}.{kind}": tensor for kind, tensor in take(name).items()}
    for index in range(1 if config.shared_layers else config.num_layers):
        prefix = family.layers.format(index=index)
        parts = {module: take(f"{prefix}.{name}") for module, name in family.layer.items()}
        key, value = parts.pop("attention.key"), parts.pop("attention.value")
        parts["attention.key_value"] = {kind: torch.cat([key[kind], value[kind]]) for kind in key if kind in value}
        for module, tensors in parts.items():
            ours |= {f"layers.{index}.{module}.{kind}": tensor for kind, tensor in tensors.items()}
    return ours


def _plain_name(family: Family, name: str) -> str:
    for prefix in family.prefixes:
        name = name.removeprefix(prefix)
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def load_encoder_weights(encoder: Encoder, weights: Mapping[str, Tensor]) -> None:
    """Put checkpoint weights into `encoder`; what a checkpoint never has (word shapes) stays as initialised."""
    try:
        missing, unexpected = encoder.load_state_dict(dict(weights), strict=False)
    except RuntimeError as error:  # PyTorch's list of the weights whose shape differs
        raise ModelRefused(f"the checkpoint's weights do not fit its config: {error}") from error
    missing = [name for name in missing if not name.startswith("embeddings.shapes.")]
    if missing or unexpected:
        raise ModelRefused(f"the checkpoint lacks {missing} and has {unexpected} too much")
