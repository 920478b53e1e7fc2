"""Makes inputs harder to read in training: changes case and hides pieces. The gold entities stay as they are."""

from __future__ import annotations

from dataclasses import replace

import torch
from tokenizers import Tokenizer

from service.models.packed import Packed
from service.text.words import WORD_SHAPES
from service.training.recipe import Recipe

MASKS = ("[MASK]", "<mask>")
LETTER_SHAPES = ("initial", "capital", "caps", "mixed", "lower")


def mask_id_of(tokenizer: Tokenizer) -> int:
    """Find the piece that the encoder has seen in place of hidden ones; 0 for a tokenizer without one.

    It is a special one. MPNet's vocabulary holds BERT's [MASK] as well, as a plain piece that nothing was hidden by.
    """
    found = (index for index, piece in tokenizer.get_added_tokens_decoder().items() if piece.content in MASKS)
    return next(found, 0)


class InputNoise:
    """Shows some sequences in lower case and some in capitals, and hides some pieces, as often as a recipe says."""

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer, device: torch.device) -> None:
        self._case_noise, self._piece_masking = recipe.case_noise, recipe.piece_masking
        self._mask_id = mask_id_of(tokenizer)
        lower, caps = torch.arange(len(WORD_SHAPES)), torch.arange(len(WORD_SHAPES))
        for shape in LETTER_SHAPES:
            lower[WORD_SHAPES.index(shape)] = WORD_SHAPES.index("lower")
            caps[WORD_SHAPES.index(shape)] = WORD_SHAPES.index("caps")
        self._lower, self._caps = lower.to(device), caps.to(device)

    def __call__(self, packed: Packed) -> Packed:
        """Return a noisy copy of the input, or the input itself where the recipe wants no noise."""
        if not self._case_noise and not self._piece_masking:
            return packed
        shapes, pieces = packed.shape_ids, packed.piece_ids
        if self._case_noise:
            lengths = torch.tensor(packed.pieces.lengths, device=shapes.device)
            draw = torch.rand(len(lengths), device=shapes.device).repeat_interleave(lengths)
            shapes = torch.where(draw < self._case_noise, self._lower[shapes], shapes)
            shapes = torch.where(draw > 1 - self._case_noise, self._caps[shapes], shapes)
        if self._piece_masking:
            hidden = torch.rand(len(pieces), device=pieces.device) < self._piece_masking
            is_last = packed.positions.roll(-1) == 0  # the next piece begins another sequence
            pieces = torch.where(hidden & (packed.positions > 0) & ~is_last, self._mask_id, pieces)
        return replace(packed, shape_ids=shapes, piece_ids=pieces)
