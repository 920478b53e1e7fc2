"""What a model is: the encoder's shape, its exits, its labels and how it wants text cut. Stored as config.json."""

from __future__ import annotations

import re
import reprlib
from dataclasses import asdict, dataclass, field, fields
from operator import attrgetter
from typing import Any, Literal, get_args

from service.errors import ModelRefused
from service.text.encoder import TextConfig
from service.text.words import TableUnit

ExitForm = Literal["full", "low_rank", "contextual"]
EndPiece = Literal["first", "last"]
Activation = Literal["gelu", "gelu_tanh", "relu"]
Tags = Literal["tags"]
Hash = Literal["random", "random_consistent", "frequency", "mutual_information", "clustered", "tag_entropy"]


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """The shape of a BERT-like encoder (post-LayerNorm).

    embedding_size   width of the embedding tables; when it is not hidden_size, a projection follows (ELECTRA, ALBERT)
    position_offset  index of the first position in the position table (RoBERTa, MPNet begin after their padding index)
    type_vocab_size  0 for a family without token types (DistilBERT, MPNet)
    shared_layers    one set of weights for all layers (ALBERT)
    relative_bias    attention adds a bias by the distance of key and query (MPNet)
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
    relative_bias: bool = False


@dataclass(frozen=True, slots=True)
class ExitConfig:
    """The biaffine classifier after every layer.

    form           "full": U as in Eq. 1 of VEE-BERT; "low_rank": both words projected to `rank`, then bilinear;
                   "contextual" (ours): low rank, each projection joined by one of the mean over the sequence's words
                   and passed through a GELU, which shows a shallow exit the sentence its layers have not mixed in yet;
                   "tags": no such classifier, but the head of a token classifier after the last layer (see `tag_exit`)
    rank           of the projections
    end_piece      which piece of a span's last word stands for it; its first word is always read at its first piece.
                   "first" is the paper's reading; "last" (ours) shows the exit both ends of a span's spelling
    reach          of the contextual form (ours): how many words on either side an exit sees beside each word, through a
                   convolution of its projections; after one or two layers a word has hardly met its neighbours
    width_buckets  a learned bias for spans of 1, 2, ..., width_buckets and more words (ours; 0 leaves it out)
    """

    form: ExitForm | Tags = "contextual"
    rank: int = 64
    end_piece: EndPiece = "last"
    reach: int = 2
    width_buckets: int = 16


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Everything that decides what a model's weights mean.

    labels      names of table labels 1, 2, ...; label 0, no entity, has none
    nested      whether entities may contain each other
    word_shapes whether a learned vector for the spelling of a word joins its pieces' embeddings
    halting     whether words halted after sampled layers while it was trained, as TOKEE asks for
    hash        how the table was made that says after which layer each piece's word halts (HashEE); None: it has none.
                A model with such a table has one exit, which reads words of all depths
    buckets     how many such layers the table tells apart, 1 to num_layers
    prototypes  whether it has a prototype for every exit and label, as DE3-BERT asks for
    """

    name: str
    version: str
    labels: tuple[str, ...]
    nested: bool
    encoder: EncoderConfig
    exits: ExitConfig = field(default_factory=ExitConfig)
    text: TextConfig = field(default_factory=TextConfig)
    word_shapes: bool = True
    halting: bool = False
    hash: Hash | None = None
    buckets: int = 0
    prototypes: bool = False

    @property
    def has_early_exits(self) -> bool:
        """Whether a sequence may leave before the last layer; a token classifier served as it is lets none."""
        return self.exits.form != "tags"

    @property
    def num_exits(self) -> int:
        """How many exits have weights of their own."""
        return self.num_layers if self.hash is None else 1

    def exit_after(self, layer: int) -> int:
        """Which layer's exit, gain and bias read the states after `layer`."""
        return layer if self.hash is None else self.num_layers

    @property
    def num_layers(self) -> int:
        return self.encoder.num_layers

    @property
    def num_labels(self) -> int:
        """Table labels, no entity included: K in the paper."""
        return len(self.labels) + 1

    def to_json(self) -> dict[str, Any]:
        """Turn it into plain JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ModelConfig:
        """Read what `to_json` wrote; raises ModelRefused for a field that is missing or unknown."""
        try:
            parts = {
                "encoder": EncoderConfig(**data["encoder"]),
                "exits": ExitConfig(**{"reach": 0, **data["exits"]}),  # older folders know nothing of it
                "text": TextConfig(**data["text"]),
                "labels": tuple(data["labels"]),
            }
            known = {f.name for f in fields(cls)}
            if unknown := data.keys() - known:
                raise ModelRefused(f"config.json has unknown fields {sorted(unknown)}; expected {sorted(known)}")
            if not isinstance(data["labels"], list | tuple):
                raise ModelRefused(f"config.json: labels are {reprlib.repr(data['labels'])}; expected a list of names")
            config = cls(**{**data, **parts})
            _check(config)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelRefused(f"config.json does not describe a model of this service: {error}") from error
        return config


_OF_ENCODERS = {  # the range of what is an integer, wide enough for any encoder, and too narrow to take a machine down
    "vocab_size": (1, 2_000_000),
    "embedding_size": (1, 16_384),
    "hidden_size": (1, 16_384),
    "num_layers": (1, 128),
    "num_heads": (1, 256),
    "intermediate_size": (1, 65_536),
    "max_positions": (1, 65_536),
    "position_offset": (0, 16),
    "type_vocab_size": (0, 256),
}
_RANGES = {  # likewise, by its place
    "exits.rank": (1, 4_096),
    "exits.reach": (0, 64),
    "exits.width_buckets": (0, 1_024),
    "text.window_pieces": (3, 65_536),
    "text.overlap_pieces": (0, 65_536),
    "buckets": (0, 128),
}
_SWITCHES = ("nested", "word_shapes", "halting", "prototypes")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+ -]{0,63}")  # a folder in the store and in the state folder, a label
_MAX_LABELS, _MAX_LABEL_CHARS = 1_000, 100


def check_encoder(encoder: EncoderConfig) -> None:
    """Raise ModelRefused for an encoder that no model can have."""
    _check_choice("encoder.activation", encoder.activation, Activation)
    for name, allowed in _OF_ENCODERS.items():
        _check_range(f"encoder.{name}", getattr(encoder, name), *allowed)
    for name in ("shared_layers", "relative_bias"):
        _check_switch(f"encoder.{name}", getattr(encoder, name))
    if type(encoder.layer_norm_eps) is not float or not 0 < encoder.layer_norm_eps < 1:
        raise ModelRefused(
            f"config.json: encoder.layer_norm_eps is {reprlib.repr(encoder.layer_norm_eps)}; expected a small number"
        )
    if encoder.hidden_size % encoder.num_heads:
        raise ModelRefused(f"config.json: {encoder.num_heads} heads do not divide a width of {encoder.hidden_size}")


def _check(config: ModelConfig) -> None:
    """Raise ModelRefused for values that no model can have."""
    encoder, exits, text = config.encoder, config.exits, config.text
    for what, name in (("name", config.name), ("version", config.version)):
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ModelRefused(
                f"config.json: {what} is {reprlib.repr(name)}; expected up to 64 letters, digits, blanks and ._+-"
            )
    _check_labels(config.labels)
    check_encoder(encoder)
    _check_choice("exits.form", exits.form, ExitForm)
    _check_choice("exits.end_piece", exits.end_piece, EndPiece)
    _check_choice("text.table_unit", text.table_unit, TableUnit)
    if config.hash is not None:
        _check_choice("hash", config.hash, Hash)
    for name, allowed in _RANGES.items():
        _check_range(name, attrgetter(name)(config), *allowed)
    for name in _SWITCHES:
        _check_switch(name, getattr(config, name))
    if exits.reach and exits.form != "contextual":
        raise ModelRefused(f"config.json: exits.reach is {exits.reach}; expected 0 in the form {exits.form}")
    if config.hash is not None and not 1 <= config.buckets <= config.num_layers:
        raise ModelRefused(f"config.json: buckets is {config.buckets!r}; expected 1 to {config.num_layers} of a hash")
    if text.window_pieces > encoder.max_positions - encoder.position_offset:
        raise ModelRefused(
            f"config.json: text.window_pieces is {text.window_pieces}; expected 3 to the encoder's "
            f"{encoder.max_positions - encoder.position_offset} positions"
        )


def _check_choice(name: str, value: object, choice: object) -> None:
    if value not in get_args(choice):
        expected = list(get_args(choice))
        raise ModelRefused(f"config.json: {name} is {reprlib.repr(value)}; expected one of {expected}")


def _check_range(name: str, value: object, lowest: int, highest: int) -> None:
    if type(value) is not int or not lowest <= value <= highest:
        raise ModelRefused(
            f"config.json: {name} is {reprlib.repr(value)}; expected an integer from {lowest} to {highest}"
        )


def _check_switch(name: str, value: object) -> None:
    if type(value) is not bool:
        raise ModelRefused(f"config.json: {name} is {reprlib.repr(value)}; expected true or false")


def _check_labels(labels: tuple[object, ...]) -> None:
    fits = all(
        isinstance(label, str) and 0 < len(label) <= _MAX_LABEL_CHARS and label.isprintable() for label in labels
    )
    if not fits or not 0 < len(labels) <= _MAX_LABELS or len(set(labels)) < len(labels):
        raise ModelRefused(
            f"config.json: labels are {reprlib.repr(labels)}; expected 1 to {_MAX_LABELS} different names of up to "
            f"{_MAX_LABEL_CHARS} characters"
        )
