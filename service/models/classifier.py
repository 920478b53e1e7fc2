"""Makes a model of a Transformers token classifier as it is: its encoder, and its own head for the only exit.

Such a model is served at full depth, or teaches. It is never saved: its folder stays the checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer

from service.errors import ModelRefused
from service.models.checkpoint import Checkpoint, highest_id, load_checkpoint, load_encoder_weights
from service.models.config import ExitConfig, ModelConfig
from service.models.multi_exit import MultiExitModel
from service.models.tag_exit import NoExit, TagExit
from service.models.tags import TagScheme
from service.text.encoder import TextConfig
from service.text.words import TableUnit

VERSION = "checkpoint"
WINDOW_PIECES, OVERLAP_PIECES = 256, 64  # as in a recipe, where the encoder reads as many


@dataclass(frozen=True, slots=True, eq=False)
class TokenClassifier:
    """Holds a token classifier's checkpoint, and what its tags mean."""

    checkpoint: Checkpoint
    scheme: TagScheme
    folder: Path

    @classmethod
    def read(cls, folder: Path) -> TokenClassifier:
        """Read a folder. Raises ModelRefused for one that holds no token classifier whose tags can be understood."""
        checkpoint = load_checkpoint(folder)
        if not checkpoint.tags:
            raise ModelRefused(
                f"{folder} holds an encoder, but no token classifier (an architecture ...ForTokenClassification in its "
                "config.json); train it on annotated data, with `python -m service train`"
            )
        try:
            scheme = TagScheme.read(checkpoint.tags)
            _check(checkpoint)
        except ModelRefused as error:
            raise ModelRefused(f"{folder}: {error}") from error
        return cls(checkpoint, scheme, folder)

    @property
    def name(self) -> str:
        """The folder's name, as a model may have it."""
        return name_of(self.folder) or VERSION

    @property
    def knows_words(self) -> bool:
        """Whether its tokenizer marks the pieces that go on a word (WordPiece), as a Transformers pipeline wants it."""
        return knows_words(self.checkpoint.tokenizer)

    @property
    def text(self) -> TextConfig:
        """How texts are cut for it: into words where its tokenizer knows words, else into pieces."""
        config = self.checkpoint.config
        window = min(WINDOW_PIECES, config.max_positions - config.position_offset)
        unit: TableUnit = "words" if self.knows_words else "pieces"
        return TextConfig("en", unit, window, min(OVERLAP_PIECES, window // 4))

    def model(
        self, *, labels: Sequence[str] | None = None, text: TextConfig | None = None, soft: bool = False
    ) -> MultiExitModel:
        """Make the model, in eval mode: its tables are what a pipeline finds, or with `soft` distributions.

        labels  of the tables, in this order; None: all. Raises ModelRefused for labels that it does not know
        text    how the texts are cut; None: as `text`
        """
        scheme = self.scheme if labels is None else self.scheme.of_labels(labels)
        text, encoder = text or self.text, self.checkpoint.config
        like_ours = ModelConfig(
            self.name, VERSION, scheme.labels, nested=False, encoder=encoder, text=text, word_shapes=False
        )
        checked = ModelConfig.from_json(like_ours.to_json())
        config = replace(checked, exits=ExitConfig("tags", rank=1, end_piece="first", reach=0, width_buckets=0))
        none = [NoExit(config.num_labels) for _ in range(config.num_layers - 1)]
        exits = [*none, TagExit(self.checkpoint.head, scheme, soft=soft)]
        with torch.device("meta"):  # nothing is made before it is known to fit
            model = MultiExitModel(config, exits=exits)
        load_encoder_weights(model.encoder, self.checkpoint.weights, assign=True)
        return model.requires_grad_(False).eval()


def name_of(folder: Path) -> str:
    """Return a folder's name without what a model's name may not have; that may be empty."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", folder.resolve().name).strip("-._+")[:64]


def _check(checkpoint: Checkpoint) -> None:
    """Raise ModelRefused for weights that are not finite, and for a tokenizer with more pieces than the encoder."""
    for name, tensor in [*checkpoint.weights.items(), *checkpoint.head.items()]:
        if not torch.isfinite(tensor).all():
            raise ModelRefused(f"its weights have numbers that are not finite in {name}")
    pieces = highest_id(checkpoint.tokenizer) + 1
    if pieces > checkpoint.config.vocab_size:
        raise ModelRefused(
            f"its tokenizer has {pieces} pieces, and its encoder {checkpoint.config.vocab_size} (vocab_size): one of "
            "them belongs to another model"
        )


def knows_words(tokenizer: Tokenizer) -> bool:
    """Say whether a tokenizer marks the pieces that go on a word, as WordPiece does."""
    return bool(getattr(tokenizer.model, "continuing_subword_prefix", None))
