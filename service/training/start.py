"""Reads what a run starts from, an encoder or a model, and works out the config of the model to train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer
from torch import Tensor

from service.errors import BadInput
from service.models.checkpoint import load_checkpoint, load_encoder_weights
from service.models.config import EncoderConfig, ExitConfig, ModelConfig
from service.models.multi_exit import MultiExitModel
from service.models.store import CHECKSUMS, TOKENIZER, load_model
from service.text.encoder import TextConfig
from service.training.recipe import Recipe


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """Holds what training starts from: a pretrained encoder, or a model.

    encoder    the encoder's config
    tokenizer  of the encoder
    weights    of a pretrained encoder, by name; empty for a model
    model      the model to start from; None for an encoder
    """

    encoder: EncoderConfig
    tokenizer: Tokenizer
    weights: Mapping[str, Tensor]
    model: MultiExitModel | None = None

    @classmethod
    def read(cls, folder: Path, layers: int = 0) -> Start:
        """Read the folder of a Transformers checkpoint or of a model of this service.

        layers: how many of a checkpoint's are kept; 0: all. Raises BadInput where they are asked of a model.
        """
        if (folder / CHECKSUMS).is_file():
            if layers:
                raise BadInput(f"{folder} is a model of this service, whose exits need every layer: leave out layers")
            stored = load_model(folder)
            tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
            return cls(stored.config.encoder, tokenizer, {}, stored.model)
        checkpoint = load_checkpoint(folder).of_layers(layers)
        return cls(checkpoint.config, checkpoint.tokenizer, checkpoint.weights)

    def put_into(self, model: MultiExitModel) -> None:
        """Copy the weights into `model`.

        Raises BadInput where it differs from the model to start from in labels, exits, text config or word shapes.
        """
        if self.model is None:
            load_encoder_weights(model.encoder, self.weights)
            return
        theirs, ours = self.model.config, model.config
        parts = [
            ("labels", theirs.labels, ours.labels),
            ("exits", theirs.exits, ours.exits),
            ("text", theirs.text, ours.text),
        ]
        for name, given, wanted in [*parts, ("word_shapes", theirs.word_shapes, ours.word_shapes)]:
            if given != wanted:
                raise BadInput(f"the recipe asks for {name} {wanted}, the model to start from has {given}")
        model.encoder.load_state_dict(self.model.encoder.state_dict())
        exits = list(self.model.exits)[-ours.num_exits :]  # the one exit of a model with a hash goes on from the last
        for own, other in zip(model.exits, exits, strict=True):
            own.load_state_dict(other.state_dict())


def model_config(recipe: Recipe, encoder: EncoderConfig, labels: tuple[str, ...]) -> ModelConfig:
    """Return the config of the model that a recipe makes of an encoder.

    Raises BadInput for windows longer than the encoder reads.
    """
    reach = recipe.exit_reach if recipe.exit_form == "contextual" else 0
    longest = encoder.max_positions - encoder.position_offset
    if recipe.window_pieces > longest:
        raise BadInput(f"window_pieces {recipe.window_pieces} is more than the encoder's {longest} positions")
    return ModelConfig(
        name=recipe.name,
        version=recipe.version,
        labels=labels,
        nested=recipe.nested,
        encoder=encoder,
        exits=ExitConfig(recipe.exit_form, recipe.exit_rank, recipe.end_piece, reach, recipe.width_buckets),
        text=TextConfig(recipe.language, recipe.table_unit, recipe.window_pieces, recipe.overlap_pieces),
        word_shapes=recipe.word_shapes,
        halting=recipe.halting,
        hash=None if recipe.hash == "none" else recipe.hash,
        buckets=recipe.buckets if recipe.hash != "none" else 0,
        prototypes=recipe.distance_weight > 0,
    )
