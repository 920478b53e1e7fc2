"""Tiny random models for tests: a tokenizer, a config, a model, a model folder. No test lives here.

The weights are random, but layers agree on most spans and differ on some, as trained ones do. They are float16 values
held in float32, so that saving loses nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor

from service.executors.eager import EagerExecutor
from service.models.config import EncoderConfig, ExitConfig, ModelConfig
from service.models.encoder import Encoder
from service.models.multi_exit import DropoutRates, MultiExitModel
from service.models.packed import Packed
from service.models.store import save_model
from service.text.encoder import TextConfig, TextEncoder
from service.text.types import SequenceInput

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Field = str | int | float  # of a Transformers config

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
WORDS = (
    *("the", "a", "in", "of", "to", "and", "at", "is", "was", "visited", "works", "lives", "met", "bank", "river"),
    *("anna", "ben", "carla", "rome", "paris", "oslo", "acme", "data", "labs", "university", "##s", "##ed", "##ing"),
)
TEXTS = (
    "Anna works at Acme Labs in Oslo.",
    "The University of Paris was visited.",
    "Ben met Carla.",
    "A river in Rome",
)


def tiny_tokenizer(words: Iterable[str] = WORDS) -> Tokenizer:
    """An uncased BERT WordPiece tokenizer; it knows `words` whole and spells every other ASCII word by letters."""
    vocabulary = [*SPECIALS, *LETTERS, *(f"##{letter}" for letter in LETTERS), *".,:;!?-'\"()", *words]
    ids = {piece: index for index, piece in enumerate(dict.fromkeys(vocabulary))}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(list(SPECIALS))
    return tokenizer


def tiny_config(
    *,
    num_layers: int = 4,
    nested: bool = True,
    labels: Sequence[str] = ("LOC", "ORG", "PER"),
    exits: ExitConfig = ExitConfig(rank=8),  # noqa: B008, frozen
    text: TextConfig = TextConfig(window_pieces=64, overlap_pieces=16),  # noqa: B008, frozen
    word_shapes: bool = True,
    name: str = "tiny",
    version: str = "1",
) -> ModelConfig:
    """A BERT of width 32 with exits of rank 8."""
    encoder = EncoderConfig(
        family="bert",
        vocab_size=tiny_tokenizer().get_vocab_size(),
        embedding_size=32,
        hidden_size=32,
        num_layers=num_layers,
        num_heads=4,
        intermediate_size=48,
        max_positions=text.window_pieces,
    )
    return ModelConfig(name, version, tuple(labels), nested, encoder, exits, text, word_shapes)


def tiny_model(config: ModelConfig | None = None, seed: int = 0, dropout: DropoutRates | None = None) -> MultiExitModel:
    """A random model in eval mode without gradients, the same for the same config and seed."""
    model = MultiExitModel(config or tiny_config(), dropout)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.encoder.named_parameters():
            scale = 1.0 if "pieces" in name else 0.1
            mean = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_((mean + scale * torch.randn(parameter.shape, generator=generator)).half())
        for name, first in model.exits[0].named_parameters():  # exits are alike, as trained ones are
            scale = 0.05 if name == "bilinear" else 0.2
            mean = -3.0 if name == "bias" else 0.0  # most spans are no entity
            common = mean + scale * torch.randn(first.shape, generator=generator)
            for exit_ in model.exits:
                own = 0.2 * scale * torch.randn(first.shape, generator=generator)
                exit_.get_parameter(name).copy_((common + own).half())
    return model.requires_grad_(False).eval()


def save_tiny_model(folder: Path, config: ModelConfig | None = None, seed: int = 0) -> Path:
    """Write `tiny_model(config, seed)` as a model folder; -> `folder`."""
    save_model(folder, tiny_model(config, seed), tiny_tokenizer(), "# A tiny random model, for tests\n")
    return folder


def tiny_text_encoder(config: ModelConfig | None = None) -> TextEncoder:
    """The text path of a tiny model."""
    config = config or tiny_config()
    return TextEncoder(tiny_tokenizer(), config.text, config.labels, config.nested)


def random_sequences(num_words: Sequence[int], seed: int = 0, vocab_size: int = 100) -> list[SequenceInput]:
    """Sequences of so many words of one or two random pieces each, between a first and a last special piece."""
    random = np.random.default_rng(seed)
    sequences = []
    for count in num_words:
        lengths = random.integers(1, 3, size=count)
        total = int(lengths.sum())
        starts = np.arange(count, dtype=np.int64) * 2
        sequences.append(
            SequenceInput(
                piece_ids=np.concatenate(([2], random.integers(5, vocab_size, size=total), [3])),
                shape_ids=np.concatenate(([0], np.repeat(random.integers(0, 9, size=count), lengths), [0])),
                first_piece=np.cumsum(lengths) - lengths + 1,
                last_piece=np.cumsum(lengths),
                word_starts=starts,
                word_ends=starts + 1,
                owned=(0, count),
            )
        )
    return sequences


def random_transformer(family: str, *, spread: float = 0.3, **fields: Field) -> PreTrainedModel:
    """A tiny Transformers model of a family (its model_type), every bias and LayerNorm random too, in eval mode."""
    from transformers import AutoConfig, AutoModel

    shape: dict[str, Field] = {"vocab_size": 120, "max_position_embeddings": 66}
    if family == "distilbert":
        shape |= {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}
    else:
        shape |= {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    model: PreTrainedModel = AutoModel.from_config(AutoConfig.for_model(family, **{**shape, **fields}))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_gain = "norm" in name.lower() and name.endswith("weight")
            parameter.copy_(is_gain + spread * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def save_bert_checkpoint(folder: Path, words: Iterable[str] = WORDS, *, spread: float = 0.3, **fields: Field) -> Path:
    """Write a random BERT and a tokenizer that knows `words`, as Transformers does; -> `folder`."""
    from transformers import BertTokenizerFast

    vocabulary = tiny_tokenizer(words).get_vocab()
    BertTokenizerFast(vocab=vocabulary).save_pretrained(folder)
    random_transformer("bert", spread=spread, vocab_size=len(vocabulary), **fields).save_pretrained(folder)
    return folder


def all_hidden_states(encoder: Encoder, num_layers: int, packed: Packed) -> list[Tensor]:
    """The embedding's output and every layer's, as Transformers' `hidden_states`."""
    state = encoder.embed(packed)
    states = [state]
    for layer in range(1, num_layers + 1):
        state = encoder.run_layer(layer, state, packed)
        states.append(encoder.hidden(layer, state))
    return states


def eager(model: MultiExitModel | None = None) -> EagerExecutor:
    """The reference executor on a model, or on a tiny one."""
    return EagerExecutor(model or tiny_model(), torch.device("cpu"))
