"""Reads a Transformers checkpoint folder: encoder weights under our names, and the tokenizer. Training starts here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
from service.models.config import EncoderConfig, check_encoder
from service.models.encoder import Encoder
from service.models.folder import MAX_PARAMETERS, check_checkpoint, read_json

_CLASSIFIER = "ForTokenClassification"  # how the names of such architectures end
_MOST_TAGS = 4_001  # of a token classifier: for a thousand labels four each, and the one for no entity
_SAMPLE = "A sentence, of 2 words: Ωhm's 漢."
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A pretrained encoder: its shape, its weights under `Encoder`'s names (float32), its tokenizer.

    tags  of a token classifier, the names of its outputs, in order (id2label); else empty
    head  of a token classifier, the `weight`, (tags, hidden), and `bias`, (tags,), of its last layer, float32
    """

    config: EncoderConfig
    weights: Mapping[str, Tensor]
    tokenizer: Tokenizer
    tags: tuple[str, ...] = ()
    head: Mapping[str, Tensor] = field(default_factory=dict)

    def of_layers(self, count: int) -> Checkpoint:
        """Return a checkpoint with `count` of the layers, evenly chosen, the last one among them; 0: all.

        Six of twelve are every second one. It is an encoder alone: a head was trained on all layers. Raises
        ModelRefused for more layers than there are.
        """
        total = self.config.num_layers
        if count in (0, total):
            return self
        if not 0 < count < total:
            raise ModelRefused(f"{count} layers are wanted of a checkpoint that has {total}")
        kept = [0] if self.config.shared_layers else [(index + 1) * total // count - 1 for index in range(count)]
        weights = {name: tensor for name, tensor in self.weights.items() if not name.startswith("layers.")}
        for ours, theirs in enumerate(kept):
            of_layer = {name: t for name, t in self.weights.items() if name.startswith(f"layers.{theirs}.")}
            weights |= {name.replace(f"layers.{theirs}.", f"layers.{ours}.", 1): t for name, t in of_layer.items()}
        return Checkpoint(replace(self.config, num_layers=count), weights, self.tokenizer)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read `folder` (config.json, model.safetensors, tokenizer files).

    It may come from anywhere: no code in it is run. Raises ModelRefused for a folder that lacks a file or a weight, has
    a file that no checkpoint needs (see `check_checkpoint`), or whose family is none of FAMILIES.
    """
    from transformers import AutoTokenizer  # slow to import, and a model of this service never comes here

    if not (folder / "config.json").is_file():
        raise ModelRefused(f"{folder} has no config.json; expected a Transformers checkpoint folder")
    check_checkpoint(folder)
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):  # else Transformers makes up an empty one
        raise ModelRefused(f"{folder} has no tokenizer; expected one of {list(_TOKENIZER_FILES)}")
    family, config, tags = _described(folder)
    try:
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(folder, **_AS_DATA).backend_tokenizer
    except Exception as error:  # Transformers and the tokenizers library raise nothing narrower
        raise ModelRefused(f"{folder} has a tokenizer that cannot be read: {error}") from error
    weights = _read(folder)
    encoder = encoder_weights(family, config, weights)
    if not tags:
        return Checkpoint(config, encoder, tokenizer)
    return Checkpoint(config, encoder, tokenizer, tags, _head(folder, weights, (len(tags), config.hidden_size)))


_AS_DATA = {"trust_remote_code": False, "local_files_only": True}  # nobody is asked whether to run code of the folder's


def _described(folder: Path) -> tuple[Family, EncoderConfig, tuple[str, ...]]:
    """Return the family and the encoder that config.json describes and, of a token classifier, the names of its tags.

    Raises ModelRefused.
    """
    from transformers import AutoConfig

    try:
        theirs: dict[str, Any] = AutoConfig.from_pretrained(folder, **_AS_DATA).to_dict()
        family = FAMILIES.get(theirs["model_type"])
        if family is None:
            kind = theirs["model_type"]
            raise ModelRefused(f"{folder} holds a {kind!r} model; known families are {sorted(FAMILIES)}")
        config = family.config(theirs)
        is_classifier = any(str(name).endswith(_CLASSIFIER) for name in theirs.get("architectures") or ())
        tags = tuple(str(name) for _, name in sorted(theirs["id2label"].items())) if is_classifier else ()
    except ModelRefused:
        raise
    except Exception as error:  # Transformers raises nothing narrower for values that do not fit
        raise ModelRefused(f"{folder}/config.json: {error}; known families are {sorted(FAMILIES)}") from error
    try:
        check_encoder(config)
    except ModelRefused as error:
        raise ModelRefused(f"{folder}: {error}") from error
    if len(tags) > _MOST_TAGS:
        raise ModelRefused(f"{folder}/config.json has {len(tags)} tags (id2label); expected at most {_MOST_TAGS}")
    return family, config, tags


def highest_id(tokenizer: Tokenizer) -> int:
    """Return the highest id that a tokenizer gives a piece, one of its own or one around every text."""
    pieces = tokenizer.get_vocab(with_added_tokens=True).values()
    return max([*pieces, *tokenizer.encode(_SAMPLE).ids], default=0)


def is_checkpoint(folder: Path) -> bool:
    """Say whether a folder looks like a Transformers checkpoint; a model of this service has no `model_type`."""
    if not (folder / "config.json").is_file():
        return False
    return "model_type" in read_json(folder, "config.json")


def _head(folder: Path, weights: Mapping[str, Tensor], shape: tuple[int, int]) -> dict[str, Tensor]:
    """Return the last layer of a token classifier. Raises ModelRefused where it is not one linear layer of this shape.

    shape: (tags, hidden)
    """
    found = {kind: weights.get(f"classifier.{kind}") for kind in ("weight", "bias")}
    expected = {"weight": shape, "bias": shape[:1]}
    given = {kind: None if tensor is None else tuple(tensor.shape) for kind, tensor in found.items()}
    if given != expected:
        raise ModelRefused(
            f"{folder} has a classifier of shapes {given}; expected {expected}, by the id2label and the width in its "
            "config.json"
        )
    return {kind: tensor.float() for kind, tensor in found.items() if tensor is not None}


def _read(folder: Path) -> dict[str, Tensor]:
    path = folder / "model.safetensors"
    if not path.is_file():
        raise ModelRefused(
            f"{folder} has no model.safetensors; a pickled pytorch_model.bin is not read: "
            "load the checkpoint with Transformers and call save_pretrained, which writes safetensors"
        )
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelRefused(f"{path} is no safetensors file: {error}") from error
    if (parameters := sum(tensor.numel() for tensor in weights.values())) > MAX_PARAMETERS:
        raise ModelRefused(f"{path} has {parameters} weights; expected at most {MAX_PARAMETERS}")
    return weights


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


def load_encoder_weights(encoder: Encoder, weights: Mapping[str, Tensor], *, assign: bool = False) -> None:
    """Put checkpoint weights into `encoder`; what a checkpoint never has (word shapes) stays as initialised.

    assign: take the very tensors in place of the encoder's own, which then may be on the device "meta"
    """
    try:
        missing, unexpected = encoder.load_state_dict(dict(weights), strict=False, assign=assign)
    except RuntimeError as error:  # PyTorch's list of the weights whose shape differs
        raise ModelRefused(f"the checkpoint's weights do not fit its config: {error}") from error
    missing = [name for name in missing if not name.startswith("embeddings.shapes.")]
    if missing or unexpected:
        raise ModelRefused(f"the checkpoint lacks {missing} and has {unexpected} too much")
