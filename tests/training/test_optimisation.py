"""What moves the weights: parameter groups, rates, and the average."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from service.training.optimisation import linear_schedule, moving_average, parameter_groups
from tests.models_ import tiny_config, tiny_model
from tests.training.toy_ import ANY_RECIPE


def test_rates_rise_to_their_peak_over_the_warmup_and_fall_towards_zero() -> None:
    groups = [{"params": [torch.zeros(1)], "lr": rate} for rate in (1e-4, 1e-3)]
    optimizer = torch.optim.AdamW(groups)
    schedule = linear_schedule(optimizer, replace(ANY_RECIPE, epochs=10, warmup=0.2), steps_per_epoch=20)
    rates = []
    for _ in range(200):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    slow, fast = zip(*rates, strict=True)
    peak = fast.index(max(fast))
    assert max(fast) == pytest.approx(1e-3, rel=0.03)
    assert peak == pytest.approx(0.2 * 200, abs=3)
    assert list(fast[:peak]) == sorted(fast[:peak])
    assert list(fast[peak:]) == sorted(fast[peak:], reverse=True)
    assert 0 <= fast[-1] < 1e-4
    assert slow == pytest.approx([rate / 10 for rate in fast])


def test_every_parameter_is_in_one_group_and_only_matrices_decay() -> None:
    model = tiny_model().requires_grad_(True)
    groups = parameter_groups(model, ANY_RECIPE)
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(decay) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        assert (decay[id(parameter)] > 0) == (parameter.dim() > 1 and not name.endswith("bias")), name


def test_rates_decay_from_the_top_layer_down_and_exits_and_word_shapes_keep_theirs() -> None:
    model = tiny_model(tiny_config(num_layers=3)).requires_grad_(True)
    recipe = replace(ANY_RECIPE, encoder_rate=1.0, exit_rate=7.0, rate_decay=0.5)
    rates = {id(p): group["lr"] for group in parameter_groups(model, recipe) for p in group["params"]}
    expected = {
        "embeddings.": 1 / 8,
        "layers.0.": 1 / 4,
        "layers.1.": 1 / 2,
        "layers.2.": 1.0,
        "embeddings.shapes": 7.0,
    }
    for start, rate in expected.items():
        found = {rates[id(p)] for n, p in model.encoder.named_parameters() if n.startswith(start) and "shapes" not in n}
        found |= {rates[id(p)] for n, p in model.encoder.named_parameters() if "shapes" in start and "shapes" in n}
        assert found == {rate}, start
    assert {rates[id(parameter)] for parameter in model.exits.parameters()} == {7.0}


def one_weight(value: float) -> nn.Module:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, value)
    return model


def weight_of(model: nn.Module) -> float:
    (weight,) = model.parameters()
    return weight.item()


def test_the_averaged_weights_follow_quickly_at_first_and_slowly_later() -> None:
    average = moving_average(one_weight(1.0), decay=0.999)
    average.update_parameters(one_weight(0.0))
    assert weight_of(average) == pytest.approx(0.1)
    average.n_averaged += 100_000
    average.update_parameters(one_weight(0.0))
    assert weight_of(average) == pytest.approx(0.0999)


def test_without_decay_the_average_is_the_model() -> None:
    average = moving_average(one_weight(1.0), decay=0.0)
    average.update_parameters(one_weight(0.3))
    assert weight_of(average) == weight_of(one_weight(0.3))


def test_frozen_pieces_are_not_trained() -> None:
    model = tiny_model(tiny_config(num_layers=2)).requires_grad_(True)
    model.encoder.embeddings.pieces.requires_grad_(False)
    trained = {id(p) for group in parameter_groups(model, ANY_RECIPE) for p in group["params"]}
    assert id(model.encoder.embeddings.pieces.weight) not in trained
    assert len(trained) == len(list(model.parameters())) - 1
