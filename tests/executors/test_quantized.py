"""Weights as bytes, also where the products of two neighbours are added in 16 bits: the room there, and its price."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from service.executors import fused as fused_module
from service.executors.executor import Executor
from service.executors.quantized import QuantizedWeights, quantize
from tests.executors.executors_ import CONFIGS, fused, kernel_model, readings_of, shared_model
from tests.models_ import eager, random_sequences

INPUTS = random_sequences((3, 17, 1, 30, 9, 12))
every_model = pytest.mark.parametrize("name", CONFIGS)


def pairs_of(weights: QuantizedWeights) -> list[NDArray[np.int64]]:
    """Of every matrix, the neighbours whose products are added in 16 bits: (pairs, 2)."""
    return [array.reshape(-1, 2).astype(np.int64) for array in weights.arrays if array.dtype == np.int8]


def largest_sums(pairs: NDArray[np.int64]) -> tuple[int, int]:
    """The most that activations of 255 can make of a pair, and the least, divided by 255."""
    return int(pairs.clip(min=0).sum(axis=1).max()), int(pairs.clip(max=0).sum(axis=1).min())


@every_model
def test_the_products_of_two_neighbours_fit_into_16_bits_where_they_have_to(name: str) -> None:
    for pairs in pairs_of(quantize(shared_model(name), adds_in_words=True)):
        most, least = largest_sums(pairs)
        assert 255 * most < 2**15 and 255 * least >= -(2**15)


def test_the_room_is_used_up_and_not_exceeded_by_weights_that_are_all_the_same() -> None:
    model = kernel_model()
    for part in model.modules():
        if isinstance(part, nn.Linear):
            nn.init.constant_(part.weight, -0.3)
    sums = [largest_sums(pairs) for pairs in pairs_of(quantize(model, adds_in_words=True))]
    of_linear = [least for most, least in sums if most == 0]
    assert of_linear and set(of_linear) <= {-128, -126}  # of two halves of 127, both are rounded up or down


@every_model
def test_else_a_column_has_255_steps(name: str) -> None:
    for pairs in pairs_of(quantize(shared_model(name))):
        assert np.abs(pairs).max() == 127


def probabilities(executor: Executor) -> NDArray[np.float64]:
    """Of every cell of every exit."""
    tables = [reading.table for reading in readings_of(executor, INPUTS)]
    found: NDArray[np.float64] = torch.cat(tables).double().exp().numpy()
    return found


def test_room_for_pairs_costs_less_than_a_bit_of_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    model = shared_model("as shipped")
    expected, errors = probabilities(eager(model)), []
    for adds_in_words in (False, True):
        weights = quantize(model, adds_in_words=adds_in_words)
        monkeypatch.setattr(fused_module, "quantize", lambda *_, found=weights, **__: found)
        with fused(model) as executor:
            errors.append(float(np.abs(probabilities(executor) - expected).mean()))
    assert 0 < errors[1] < 1.5 * errors[0], errors
