"""What a family file states: how its config reads, and what its modules are called. Loading lives in `checkpoint`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from service.errors import ModelRefused
from service.models.config import Activation, EncoderConfig

_ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


@dataclass(frozen=True, slots=True)
class Family:
    """A Transformers model type.

    prefixes   what may stand before every weight name in a checkpoint with a task head ("bert.")
    embeddings our module -> theirs, for `Embeddings`; tables that all layers share are among them
    layers     their name of a layer, with {index} from 0
    layer      our module -> theirs, for `EncoderLayer`; query, key and value apart
    config     their config, as a dictionary, -> ours
    """

    name: str
    prefixes: tuple[str, ...]
    embeddings: Mapping[str, str]
    layers: str
    layer: Mapping[str, str]
    config: Callable[[Mapping[str, Any]], EncoderConfig]


def activation(name: str) -> Activation:
    """Find our name of a Transformers activation; raises ModelRefused for one that the encoder lacks."""
    if name not in _ACTIVATIONS:
        raise ModelRefused(f"the checkpoint uses the activation {name!r}; known are {sorted(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]
