"""What a model is: the encoder's shape, its exits, its labels and how it wants text cut. Stored as config.json."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from service.errors import ModelRefused
from service.text.encoder import TextConfig

ExitForm = Literal["full", "low_rank"]
Activation = Literal["gelu", "gelu_tanh", "relu"]


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """The shape of a BERT-like encoder (post-LayerNorm).

    embedding_size   width of the embedding tables; when it is not hidden_size, a projection follows (ELECTRA, ALBERT)
    position_offset  index of the first position in the position table (RoBERTa begins behind its padding index)
    type_vocab_size  0 for a family without token types (DistilBERT)
    shared_layers    one set of weights for all layers (ALBERT)
    """

    family: str
    vocab_size: int
    embedding_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    max_positions: int
    position_offset: int = 0
    type_vocab_size: int = 2
    activation: Activation = "gelu"
    layer_norm_eps: float = 1e-12
    shared_layers: bool = False


@dataclass(frozen=True, slots=True)
class ExitConfig:
    """The biaffine classifier behind every layer.

    form           "full": U as in Eq. 1 of VEE-BERT; "low_rank": both words projected to `rank`, then bilinear
    rank           of the low-rank form
    width_buckets  a learned bias for spans of 1, 2, ..., width_buckets and more words (ours; 0 leaves it out)
    """

    form: ExitForm = "low_rank"
    rank: int = 64
    width_buckets: int = 16


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Everything that decides what a model's weights mean.

    labels      names of table labels 1, 2, ...; label 0, no entity, has none
    nested      whether entities may contain each other
    word_shapes whether a learned vector for the spelling of a word joins its pieces' embeddings
    """

    name: str
    version: str
    labels: tuple[str, ...]
    nested: bool
    encoder: EncoderConfig
    exits: ExitConfig = field(default_factory=ExitConfig)
    text: TextConfig = field(default_factory=TextConfig)
    word_shapes: bool = True

    @property
    def num_layers(self) -> int:
        return self.encoder.num_layers

    @property
    def num_labels(self) -> int:
        """Table labels, no entity included: K in the paper."""
        return len(self.labels) + 1

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ModelConfig:
        """The reverse of `to_json`; raises ModelRefused for a field that is missing or unknown."""
        try:
            parts = {
                "encoder": EncoderConfig(**data["encoder"]),
                "exits": ExitConfig(**data["exits"]),
                "text": TextConfig(**data["text"]),
                "labels": tuple(data["labels"]),
            }
            known = {f.name for f in fields(cls)}
            if unknown := data.keys() - known:
                raise ModelRefused(f"config.json has unknown fields {sorted(unknown)}; expected {sorted(known)}")
            return cls(**{**data, **parts})
        except (KeyError, TypeError) as error:
            raise ModelRefused(f"config.json does not describe a model of this service: {error}") from error
