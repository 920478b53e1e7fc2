"""Makes inputs harder to read in training: changes case and hides pieces. The gold entities stay as they are."""

from __future__ import annotations

from dataclasses import replace

import torch
from tokenizers import Tokenizer

from service.models.packed import Packed
from service.text.words import WORD_SHAPES
from service.training.recipe import Recipe

LETTER_SHAPES = ("initial", "capital", "caps", "mixed", "lower")


class InputNoise:
    """Shows some sequences in lower case and some in capitals, and hides some pieces, as often as a recipe says."""

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer, device: torch.device) -> None:
        self._case_noise, self._piece_masking = recipe.case_noise, recipe.piece_masking
        self._mask_id = tokenizer.token_to_id("[MASK]") or tokenizer.token_to_id("<mask>") or 0
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
