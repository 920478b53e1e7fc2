"""One model, one forward path: packed == alone, layer by layer == all at once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from service.models.config import ExitConfig, ModelConfig
from service.models.multi_exit import DropoutRates
from service.models.packed import pack
from service.models.relative_bias import bucket_of
from service.text.types import SequenceInput
from tests.models_ import random_sequences, tiny_config, tiny_model

CPU = torch.device("cpu")
NUM_WORDS = (5, 1, 17, 2, 9, 17)
CONFIGS = {
    "low rank": tiny_config(),
    "full": tiny_config(exits=ExitConfig("full")),
    "low rank, first pieces": tiny_config(exits=ExitConfig("low_rank", rank=8, end_piece="first")),
    "one label": tiny_config(labels=["PER"], num_layers=2),
    "constant bias": tiny_config(exits=ExitConfig(rank=4, width_buckets=0), word_shapes=False),
    "shared layers, narrow embeddings": replace(
        tiny_config(), encoder=replace(tiny_config().encoder, shared_layers=True, embedding_size=20)
    ),
    "relative bias": replace(tiny_config(), encoder=replace(tiny_config().encoder, relative_bias=True)),
}


@torch.inference_mode()
def tables(config: ModelConfig, sequences: list[SequenceInput]) -> list[Tensor]:
    result: list[Tensor] = tiny_model(config)(pack(sequences, CPU))
    return result


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS.keys())
def config(request: pytest.FixtureRequest) -> ModelConfig:
    found: ModelConfig = request.param
    return found


def test_sequences_packed_together_get_the_tables_they_get_alone(config: ModelConfig) -> None:
    sequences = random_sequences(NUM_WORDS)
    packed = pack(sequences, CPU)
    alone = [tables(config, [sequence]) for sequence in sequences]
    for layer, table in enumerate(tables(config, sequences)):
        parts = table.split(packed.cell_counts)
        for part, single in zip(parts, alone, strict=True):
            torch.testing.assert_close(part, single[layer], rtol=1e-5, atol=1e-5)


def test_the_order_in_a_batch_does_not_matter() -> None:
    sequences = random_sequences(NUM_WORDS)
    counts = pack(sequences, CPU).cell_counts
    forward = [table.split(counts) for table in tables(tiny_config(), sequences)]
    backward = [table.split(counts[::-1]) for table in tables(tiny_config(), sequences[::-1])]
    for one, other in zip(forward, backward, strict=True):
        for part, same in zip(one, reversed(other), strict=True):
            torch.testing.assert_close(part, same, rtol=1e-5, atol=1e-5)


def test_layer_by_layer_equals_all_at_once(config: ModelConfig) -> None:
    model, packed = tiny_model(config), pack(random_sequences(NUM_WORDS), CPU)
    at_once = model(packed)
    hidden = model.embed(packed)
    for layer in range(1, config.num_layers + 1):
        hidden = model.run_layer(layer, hidden, packed)
        assert torch.equal(model.exit_table(layer, hidden, packed), at_once[layer - 1])


def test_a_table_holds_log_probabilities_of_every_valid_cell_and_label(config: ModelConfig) -> None:
    num_cells = sum(count * (count + 1) // 2 for count in NUM_WORDS)
    for table in tables(config, random_sequences(NUM_WORDS)):
        assert table.shape == (num_cells, config.num_labels)
        torch.testing.assert_close(table.exp().sum(1), torch.ones(num_cells))


def test_tables_of_different_layers_differ() -> None:
    first, *others = tables(tiny_config(), random_sequences(NUM_WORDS))
    assert not any(torch.allclose(first, other, atol=1e-2) for other in others)


def test_exits_compute_in_float32_inside_bfloat16_autocast() -> None:
    model, packed = tiny_model(), pack(random_sequences(NUM_WORDS), CPU)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.run_layer(1, model.embed(packed), packed)
        table = model.exit_table(1, hidden.bfloat16(), packed)
    assert table.dtype == torch.float32
    assert torch.equal(table, model.exit_table(1, hidden.bfloat16(), packed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_training_reaches_every_bucket_of_the_relative_bias_that_the_texts_have(dtype: torch.dtype) -> None:
    model, packed = tiny_model(CONFIGS["relative bias"]).requires_grad_(), pack(random_sequences(NUM_WORDS), CPU)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        torch.stack([table[:, 0].mean() for table in model(packed)]).sum().backward()
    gradient = model.encoder.embeddings.get_parameter("relative_bias.weight").grad
    assert gradient is not None and torch.isfinite(gradient).all()
    longest = packed.pieces.longest
    seen = bucket_of(torch.arange(1 - longest, longest)).unique()
    assert gradient.abs().sum(dim=1).nonzero().flatten().tolist() == seen.tolist()


def test_dropout_draws_in_training_and_never_in_eval_mode() -> None:
    rates = DropoutRates(hidden=0.2, attention=0.2, exits=0.2)
    packed = pack(random_sequences(NUM_WORDS), CPU)
    model = tiny_model(dropout=rates)
    assert torch.equal(model(packed)[-1], tiny_model()(packed)[-1])
    torch.manual_seed(0)
    assert not torch.equal(model.train()(packed)[-1], model(packed)[-1])


def test_the_same_seed_gives_the_same_tiny_model_and_another_seed_another() -> None:
    one, same, other = (tiny_model(seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one)


def test_the_config_says_whether_a_span_ends_at_a_words_first_or_last_piece() -> None:
    packed = pack(random_sequences((5,)), torch.device("cpu"))
    at_last, at_first = (
        tiny_model(tiny_config(exits=ExitConfig(rank=8, end_piece=piece)), seed=2) for piece in ("last", "first")
    )
    assert not torch.equal(at_last(packed)[0], at_first(packed)[0])
    same = replace(packed, last_piece=packed.first_piece)
    assert torch.equal(at_last(same)[0], at_first(packed)[0])
