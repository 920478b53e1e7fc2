"""Tiny random token classifiers of every family, saved as Transformers saves them. No test lives here."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from tests.models_ import Field
from tests.tokenizers_ import WORDS, bert_tokenizer, byte_level_tokenizer, metaspace_tokenizer, mpnet_tokenizer

BIO = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
SCHEMES = {
    "BIO": BIO,
    "BIOES": ("O", "B-PER", "I-PER", "E-PER", "S-PER", "B-LOC", "I-LOC", "E-LOC", "S-LOC"),
    "IO": ("I-PER", "I-LOC", "O"),
    "plain": ("O", "PER", "LOC"),
}
TEXTS = (
    "anna met bob in new york",
    "Bob lives in the city; he works, at times, for York's bank (of New York).",
    "x",
    "  anna 's  bank-of-york met\tthe city 北京 . ",
)
_WITHOUT_PIECES_OF_BLANKS = {  # which the text path leaves out, and tokenizers with larger vocabularies hardly have
    "albert": ("anna met bob in new york", "The city, of York's bank lives for Anna!", "anna-y", "new new york"),
    "roberta": ("Anna met mAna;Bob(met)anna's", "x", "met met manna,Bob", "Bob,etan"),
}


def texts_of(family: str) -> tuple[str, ...]:
    """Texts in which a family's tokenizer finds no piece that is a blank alone."""
    return _WITHOUT_PIECES_OF_BLANKS.get(family, TEXTS)


def tokenizer_of(family: str, words: Sequence[str] = WORDS) -> Tokenizer:
    """The tokenizer that a family's checkpoints have; the words are for those of WordPiece."""
    kinds = {"roberta": byte_level_tokenizer, "albert": metaspace_tokenizer, "mpnet": partial(mpnet_tokenizer, words)}
    return kinds.get(family, partial(bert_tokenizer, words))()


_SPECIALS = {  # of what begins and ends a text, fills up a batch, and stands for what is unknown
    "roberta": ("<s>", "</s>", "<pad>", "<unk>"),
    "albert": ("[CLS]", "[SEP]", "<pad>", "<unk>"),
    "mpnet": ("<s>", "</s>", "<pad>", "[UNK]"),
}


def save_classifier(
    folder: Path, family: str = "bert", names: Sequence[str] = BIO, *, words: Sequence[str] = WORDS, **fields: Field
) -> Path:
    """Write a random classifier of a family whose tags have these names; -> `folder`."""
    from transformers import AutoConfig, AutoModelForTokenClassification, PreTrainedTokenizerFast

    tokenizer = tokenizer_of(family, words)
    cls, sep, pad, unk = _SPECIALS.get(family, ("[CLS]", "[SEP]", "[PAD]", "[UNK]"))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, cls_token=cls, sep_token=sep, pad_token=pad, unk_token=unk, model_max_length=64
    ).save_pretrained(folder)
    shape: dict[str, Any] = {"vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": 66}
    if family == "distilbert":
        shape |= {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}
    else:
        shape |= {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    shape |= {"embedding_size": 24} if family in ("albert", "electra") else {}
    shape |= {"pad_token_id": tokenizer.token_to_id(pad), "id2label": dict(enumerate(names))}
    shape |= {"label2id": {name: index for index, name in enumerate(names)}}
    model = AutoModelForTokenClassification.from_config(AutoConfig.for_model(family, **{**shape, **fields}))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_gain = "norm" in name.lower() and name.endswith("weight")
            spread = 3.0 if "word_embeddings" in name else 0.3  # pieces differ, and so do their tags
            parameter.copy_(is_gain + spread * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    return folder
