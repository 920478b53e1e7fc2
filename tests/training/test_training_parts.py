"""The parts of the training loop: gold tables, batches, rates, parameter groups, input noise."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from service.data.readers import Example
from service.models.config import ExitForm, ModelConfig
from service.models.packed import pack
from service.spans.types import Entity, Span
from service.text.words import WORD_SHAPES
from service.training import loop
from service.training.loop import TrainingSequence, gold_cells, training_sequences
from service.training.recipe import Recipe
from tests.models_ import random_sequences, tiny_config, tiny_model, tiny_text_encoder, tiny_tokenizer

RECIPE = Recipe("toy", "1", "a.conll", "b.conll", "c.conll", True, "a BERT", "made up", batch_pieces=64)
NUM_WORDS = (3, 1, 12, 7, 7, 2, 9, 20, 4)
CPU = torch.device("cpu")


def sequences(*gold: tuple[Span, ...]) -> list[TrainingSequence]:
    inputs = random_sequences(NUM_WORDS[: len(gold)] if gold else NUM_WORDS)
    return [TrainingSequence(sequence, spans) for sequence, spans in zip(inputs, gold or ((),) * 9, strict=True)]


# gold


def test_gold_cells_are_the_upper_triangles_of_labelled_tables() -> None:
    spans = ((Span(0, 3, 2), Span(1, 2, 1)), (), (Span(11, 12, 3), Span(4, 9, 1)))
    expected = []
    for num_words, of_sequence in zip(NUM_WORDS, spans, strict=False):
        table = torch.zeros(num_words, num_words, dtype=torch.long)
        for start, end, label, _ in of_sequence:
            table[start, end - 1] = label
        expected += [int(table[first, last]) for first in range(num_words) for last in range(first, num_words)]
    assert gold_cells(sequences(*spans)).tolist() == expected


def test_an_entity_that_sentence_splitting_cuts_is_counted_as_lost() -> None:
    text = "Ben met Carla. Anna works in Oslo."
    entities = tuple(
        Entity(text.index(name), text.index(name) + len(name), label)
        for name, label in (("Ben", "PER"), ("Carla. Anna", "PER"), ("Oslo", "LOC"))
    )
    found, lost = training_sequences(tiny_text_encoder(), [Example(text, entities)], ("LOC", "ORG", "PER"))
    assert [sequence.gold for sequence in found] == [(Span(0, 1, 3),), (Span(3, 4, 1),)]
    assert lost == 1


# the model of a recipe


@pytest.mark.parametrize(
    ("form", "wanted", "reach"), [("contextual", 3, 3), ("contextual", 0, 0), ("low_rank", 3, 0), ("full", 3, 0)]
)
def test_a_recipes_reach_reaches_the_contextual_form_and_no_other(form: ExitForm, wanted: int, reach: int) -> None:
    recipe = replace(RECIPE, exit_form=form, exit_reach=wanted, window_pieces=64, overlap_pieces=16)
    start = loop._Start(tiny_config().encoder, tiny_tokenizer(), {})
    config = loop._model_config(recipe, start, ("LOC", "PER"))
    assert (config.exits.form, config.exits.reach) == (form, reach)
    assert ModelConfig.from_json(config.to_json()) == config


# batches and rates


def test_an_epoch_shows_every_sequence_once_within_the_budget() -> None:
    batches = loop._epoch_batches(sequences(), RECIPE, epoch=1)
    assert sorted(index for batch in batches for index in batch) == list(range(len(NUM_WORDS)))
    longest = [max(sequences()[index].input.num_pieces for index in batch) for batch in batches]
    assert all(len(batch) * pieces <= 64 for batch, pieces in zip(batches, longest, strict=True))


def test_the_batches_of_an_epoch_depend_on_its_number_and_the_seed_alone() -> None:
    first = loop._epoch_batches(sequences(), RECIPE, epoch=1)
    assert loop._epoch_batches(sequences(), RECIPE, epoch=1) == first
    assert loop._epoch_batches(sequences(), RECIPE, epoch=2) != first
    assert loop._epoch_batches(sequences(), replace(RECIPE, seed=2), epoch=1) != first


def test_rates_rise_to_their_peak_over_the_warmup_and_fall_towards_zero() -> None:
    groups = [{"params": [torch.zeros(1)], "lr": rate} for rate in (1e-4, 1e-3)]
    optimizer = torch.optim.AdamW(groups)
    schedule = loop._LinearSchedule(optimizer, replace(RECIPE, epochs=10, warmup=0.2), steps_per_epoch=20)
    rates = []
    for step in range(200):
        schedule.set_rates(step)
        rates.append([group["lr"] for group in optimizer.param_groups])
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
    groups = loop._parameter_groups(model, RECIPE)
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(decay) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        assert (decay[id(parameter)] > 0) == (parameter.dim() > 1 and not name.endswith("bias")), name


def test_rates_decay_from_the_top_layer_down_and_exits_and_word_shapes_keep_theirs() -> None:
    model = tiny_model(tiny_config(num_layers=3)).requires_grad_(True)
    recipe = replace(RECIPE, encoder_rate=1.0, exit_rate=7.0, rate_decay=0.5)
    rates = {id(p): group["lr"] for group in loop._parameter_groups(model, recipe) for p in group["params"]}
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


# noise


def test_without_noise_the_input_stays_the_same_object() -> None:
    packed = pack(random_sequences(NUM_WORDS), CPU)
    assert loop._InputNoise(RECIPE, tiny_tokenizer(), CPU)(packed) is packed


def test_case_noise_shows_whole_sequences_in_one_case_and_touches_letters_only() -> None:
    torch.manual_seed(0)
    packed = pack(random_sequences([5] * 200), CPU)
    noisy = loop._InputNoise(replace(RECIPE, case_noise=0.25), tiny_tokenizer(), CPU)(packed)
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


def test_piece_masking_hides_its_share_of_pieces_and_never_the_first_of_a_sequence() -> None:
    torch.manual_seed(0)
    packed = pack(random_sequences([20] * 50), CPU)
    tokenizer = tiny_tokenizer()
    noisy = loop._InputNoise(replace(RECIPE, piece_masking=0.2), tokenizer, CPU)(packed)
    changed = noisy.piece_ids != packed.piece_ids
    assert set(noisy.piece_ids[changed].tolist()) == {tokenizer.token_to_id("[MASK]")}
    assert changed.float().mean().item() == pytest.approx(0.2, abs=0.04)
    assert not changed[packed.positions == 0].any()
    assert torch.equal(noisy.shape_ids, packed.shape_ids)


def test_the_averaged_weights_follow_quickly_at_first_and_slowly_later() -> None:
    model, average = tiny_model(seed=0), tiny_model(seed=1)
    loop._update_average(average, model, decay=0.999, step=0)
    early = (average.exits[0].bias - model.exits[0].bias).abs().max()
    apart = (tiny_model(seed=1).exits[0].bias - model.exits[0].bias).abs().max()
    assert early.item() == pytest.approx(apart.item() / 10, rel=1e-4)
    loop._update_average(average, model, decay=0.999, step=100_000)
    assert (average.exits[0].bias - model.exits[0].bias).abs().max().item() == pytest.approx(0.999 * early.item())


def test_without_decay_the_average_is_the_model() -> None:
    model, average = tiny_model(seed=0), tiny_model(seed=1)
    loop._update_average(average, model, decay=0.0, step=100)
    assert all(torch.equal(p, q) for p, q in zip(average.parameters(), model.parameters(), strict=True))


def test_frozen_pieces_are_not_trained() -> None:
    model = tiny_model(tiny_config(num_layers=2)).requires_grad_(True)
    model.encoder.embeddings.pieces.requires_grad_(False)
    trained = {id(p) for group in loop._parameter_groups(model, RECIPE) for p in group["params"]}
    assert id(model.encoder.embeddings.pieces.weight) not in trained
    assert len(trained) == len(list(model.parameters())) - 1
