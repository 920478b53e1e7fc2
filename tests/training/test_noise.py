"""Input noise: what it changes, how often, and what it never touches."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from service.models.packed import pack
from service.text.words import WORD_SHAPES
from service.training.noise import InputNoise, mask_id_of
from tests.models_ import random_sequences, tiny_tokenizer
from tests.tokenizers_ import bert_tokenizer, byte_level_tokenizer, mpnet_tokenizer
from tests.training.toy_ import ANY_RECIPE

CPU = torch.device("cpu")


def test_without_noise_the_input_stays_the_same_object() -> None:
    packed = pack(random_sequences([3, 1, 12]), CPU)
    assert InputNoise(ANY_RECIPE, tiny_tokenizer(), CPU)(packed) is packed


def test_case_noise_shows_whole_sequences_in_one_case_and_touches_letters_only() -> None:
    torch.manual_seed(0)
    packed = pack(random_sequences([5] * 200), CPU)
    noisy = InputNoise(replace(ANY_RECIPE, case_noise=0.25), tiny_tokenizer(), CPU)(packed)
    lower, caps = WORD_SHAPES.index("lower"), WORD_SHAPES.index("caps")
    letters = {WORD_SHAPES.index(shape) for shape in ("initial", "capital", "caps", "mixed", "lower")}
    assert torch.equal(noisy.piece_ids, packed.piece_ids)
    kinds = []
    lengths = packed.pieces.lengths
    for before, after in zip(packed.shape_ids.split(lengths), noisy.shape_ids.split(lengths), strict=True):
        cased = torch.tensor([shape in letters for shape in before.tolist()])
        assert torch.equal(before[~cased], after[~cased])
        options = {"as it was": before[cased], "lower": torch.full_like(before[cased], lower)}
        options["caps"] = torch.full_like(before[cased], caps)
        kinds.append(next(kind for kind, wanted in options.items() if torch.equal(after[cased], wanted)))
    assert 30 <= kinds.count("lower") <= 70
    assert 30 <= kinds.count("caps") <= 70


def test_the_mask_is_the_special_piece_and_not_what_a_vocabulary_was_taken_over_with() -> None:
    tokenizers = {"[MASK]": bert_tokenizer(), "<mask>": mpnet_tokenizer()}
    for mask, tokenizer in tokenizers.items():
        assert mask_id_of(tokenizer) == tokenizer.token_to_id(mask)
    assert tokenizers["<mask>"].token_to_id("[MASK]") is not None
    assert mask_id_of(byte_level_tokenizer()) == 0  # it has none


def test_piece_masking_hides_its_share_of_pieces_and_never_the_first_of_a_sequence() -> None:
    torch.manual_seed(0)
    packed = pack(random_sequences([20] * 50), CPU)
    tokenizer = tiny_tokenizer()
    noisy = InputNoise(replace(ANY_RECIPE, piece_masking=0.2), tokenizer, CPU)(packed)
    changed = noisy.piece_ids != packed.piece_ids
    assert set(noisy.piece_ids[changed].tolist()) == {tokenizer.token_to_id("[MASK]")}
    assert changed.float().mean().item() == pytest.approx(0.2, abs=0.04)
    assert not changed[packed.positions == 0].any()
    assert torch.equal(noisy.shape_ids, packed.shape_ids)
