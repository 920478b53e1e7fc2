"""Trainings that go on from a model: halted words, a hash, prototypes; and what they refuse."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from service.assets import assets_of
from service.data.readers import Example, join, read_examples
from service.errors import BadInput
from service.evaluation.run_policy import evaluate_policy
from service.executors.eager import EagerExecutor
from service.exits.policies.de3 import De3, Prototypes
from service.exits.policies.full_depth import FullDepth
from service.exits.policies.hashee import HashedLayers, HashEE
from service.exits.policies.tokee import HaltingTraining, Tokee
from service.exits.policy import ExitPolicy
from service.models.packed import pack
from service.models.store import StoredModel, load_model
from service.spans.types import Entity
from service.training.loss import distance_loss, multi_exit_loss
from service.training.sequences import join_examples
from service.training.training_loss import PROTOTYPE_DECAY, TrainingLoss, move_prototypes
from service.training.word_layers import SampledLayers, cell_layers
from tests.models_ import random_sequences, tiny_model
from tests.training.toy_ import ANY_RECIPE, Run, Toy

CPU = torch.device("cpu")


def second(toy: Toy, finished: Run, tmp_path: Path, **changes: object) -> StoredModel:
    """A stage of two epochs after the finished run."""
    recipe = replace(toy.recipe, name="second", epochs=2, **changes)  # type: ignore[arg-type]
    return load_model(toy.train(tmp_path / "run", recipe, start=finished.output / "model"))


def f1(stored: StoredModel, policy: ExitPolicy, toy: Toy) -> float:
    examples = read_examples(toy.folder / "test.conll")
    return evaluate_policy(EagerExecutor(stored.model, CPU), stored.text_encoder, examples, policy).micro.f1


def test_a_model_learns_to_answer_while_words_are_halted(toy: Toy, finished: Run, tmp_path: Path) -> None:
    stored = second(toy, finished, tmp_path, halting=True, joined_words=24, flood=0.01)
    assert stored.config.halting and not stored.config.prototypes and stored.config.hash is None
    assert assets_of(stored.model).get(HaltingTraining) is not None
    policy = Tokee(tau=0.3, window=1)
    examples = read_examples(toy.folder / "test.conll")
    run = evaluate_policy(EagerExecutor(stored.model, CPU), stored.text_encoder, examples, policy)
    assert run.layers.mean() < stored.config.num_layers
    assert run.micro.f1 > 0.8 and f1(stored, FullDepth(), toy) > 0.8


def test_a_model_learns_under_its_hash_and_keeps_its_table(toy: Toy, finished: Run, tmp_path: Path) -> None:
    stored = second(toy, finished, tmp_path, hash="frequency", buckets=2, distillation=0.0)
    assert stored.config.hash == "frequency" and len(stored.model.exits) == 1
    table = stored.model.get_buffer("piece_layers")
    assert table.dtype == torch.uint8 and set(table.tolist()) == {1, 2}
    layers = assets_of(stored.model).get(HashedLayers)
    assert layers is not None
    policy = HashEE(layers=layers)
    examples = read_examples(toy.folder / "test.conll")
    run = evaluate_policy(EagerExecutor(stored.model, CPU), stored.text_encoder, examples, policy)
    assert 1 < run.layers.mean() < 2 and run.micro.f1 > 0.8
    test = json.loads((tmp_path / "run" / "test.json").read_text())
    assert test["exits"][-1]["f1"] == pytest.approx(100 * run.micro.f1, abs=0.01)  # what the card says


def test_prototypes_come_to_lie_where_their_labels_are(toy: Toy, finished: Run, tmp_path: Path) -> None:
    stored = second(toy, finished, tmp_path, distance_weight=0.2)
    prototypes = assets_of(stored.model).get(Prototypes)
    assert prototypes is not None and prototypes.points.shape == (2, 3, 8)
    assert np.abs(prototypes.points[:, 1:]).sum(axis=2).min() > 0
    policy = De3(tau=0.5, weight=1.0, prototypes=prototypes)
    examples = read_examples(toy.folder / "test.conll")
    run = evaluate_policy(EagerExecutor(stored.model, CPU), stored.text_encoder, examples, policy)
    assert run.layers.mean() < 2 and run.micro.f1 > 0.8


def test_a_second_stage_needs_a_first_one_and_the_same_exits(toy: Toy, finished: Run, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="start from a model"):
        toy.train(tmp_path / "a", replace(toy.recipe, halting=True))
    with pytest.raises(BadInput, match="asks for exits"):
        second(toy, finished, tmp_path, exit_rank=16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hash": "frequency", "halting": True}, "a recipe with a hash has one exit"),
        ({"hash": "frequency", "distance_weight": 0.1}, "a recipe with a hash has one exit"),
        ({"distance_weight": 0.1, "exit_form": "full"}, "distance_weight needs exits that project words"),
        ({"buckets": 0}, "buckets"),
    ],
)
def test_recipes_that_cannot_be(toy: Toy, changes: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        replace(toy.recipe, **changes)  # type: ignore[arg-type]


def test_texts_are_joined_with_their_entities() -> None:
    examples = [Example("Anna ran .", (Entity(0, 4, "PER"),)), Example("Oslo is old .", (Entity(0, 4, "LOC"),))]
    joined = join([*examples, examples[0]])
    assert joined.text == "Anna ran . Oslo is old . Anna ran ."
    assert [joined.text[e.start : e.end] for e in joined.entities] == ["Anna", "Oslo", "Anna"]
    many = join_examples(examples * 20, 12, seed=1)
    assert " ".join(one.text for one in many) == " ".join(one.text for one in examples * 20)
    lengths = [len(one.text.split()) for one in many]
    assert max(lengths) <= 12 and len(set(lengths)) > 2
    assert many == join_examples(examples * 20, 12, seed=1) != join_examples(examples * 20, 12, seed=2)


def test_sampled_layers_are_full_depth_for_four_of_ten_and_repeat_after_a_seed() -> None:
    inputs = random_sequences([9, 17, 4])
    model = tiny_model()
    for exit_ in model.exits:
        exit_.get_parameter("bias").sub_(2.0)  # surer than a random one is
    sampled = SampledLayers(model, inputs, CPU)
    sampled.seed("1 1")
    drawn = [[sampled.of(index).tolist() for index in range(3)] for _ in range(300)]
    sampled.seed("1 1")
    assert drawn == [[sampled.of(index).tolist() for index in range(3)] for _ in range(300)]
    whole = np.mean([layers == [4] * len(layers) for of_batch in drawn for layers in of_batch])
    assert 0.35 < whole < 0.75  # four of ten are meant to be, and some thresholds stop nobody
    assert any(min(layers) == 1 for of_batch in drawn for layers in of_batch)


def test_a_cell_is_as_deep_as_its_deeper_word() -> None:
    packed = pack(random_sequences([3, 2]), CPU)
    found = cell_layers(packed, torch.tensor([2, 1, 4, 3, 1]))
    assert found.tolist() == [2, 2, 4, 1, 4, 4, 3, 3, 1]


def test_a_cell_counts_until_its_words_are_halted_and_learns_from_its_last_table() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = [torch.randn(6, 3, generator=generator).log_softmax(1) for _ in range(3)]
    gold, layers = torch.tensor([0, 1, 2, 0, 1, 0]), torch.tensor([1, 1, 2, 2, 3, 3])
    weights = [0.2, 0.3, 0.5]
    total, losses = multi_exit_loss(scores, one_hot(gold).bool(), 4, weights, 0.5, layers)
    expected, of_exits = 0.0, [0.0] * 3
    for cell in range(6):
        teacher = scores[int(layers[cell]) - 1][cell].exp()
        for layer in range(1, int(layers[cell]) + 1):
            table = scores[layer - 1][cell]
            of_exits[layer - 1] -= float(table[gold[cell]]) / 4
            if layer < layers[cell]:
                expected -= 0.5 * weights[layer - 1] * float(teacher @ table) / 4
    expected += sum(weight * loss for weight, loss in zip(weights, of_exits, strict=True))
    assert losses.tolist() == pytest.approx(of_exits, rel=1e-5)
    assert float(total) == pytest.approx(expected, rel=1e-5)
    whole = torch.full((6,), 3)
    assert float(multi_exit_loss(scores, one_hot(gold).bool(), 4, weights, 0.5, whole)[0]) == pytest.approx(
        float(multi_exit_loss(scores, one_hot(gold).bool(), 4, weights, 0.5)[0]), rel=1e-6
    )


def test_the_distance_loss_is_small_where_every_point_is_at_its_own_prototype() -> None:
    prototypes = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    labels = torch.tensor([0, 1, 2])
    assert float(distance_loss(prototypes, prototypes, labels)) < 1e-6
    assert float(distance_loss(prototypes.roll(1, 0), prototypes, labels)) > 20
    points = torch.zeros(3, 2, requires_grad=True)
    distance_loss(points, prototypes.requires_grad_(), labels).backward()
    assert points.grad is not None and prototypes.grad is None


def test_prototypes_begin_at_the_first_mean_and_then_follow_slowly() -> None:
    prototypes = torch.zeros(3, 2)
    move_prototypes(prototypes, torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([1, 1]))
    assert prototypes.tolist() == [[0, 0], [2, 3], [0, 0]]
    move_prototypes(prototypes, torch.tensor([[4.0, 3.0], [1.0, 1.0]]), torch.tensor([1, 2]))
    assert prototypes[1].tolist() == pytest.approx([2 + 2 * (1 - PROTOTYPE_DECAY), 3.0])
    assert prototypes[2].tolist() == [1, 1]


def test_flooding_turns_a_loss_around_below_its_level() -> None:
    model = tiny_model()
    inputs = random_sequences([5, 3])
    packed = pack(inputs, CPU)
    gold = torch.zeros(21, dtype=torch.long)

    def loss(flood: float) -> float:
        training_loss = TrainingLoss(replace(ANY_RECIPE, flood=flood), None, model, inputs, CPU)
        return float(training_loss([0, 1], packed, one_hot(gold, 4).bool())[0])

    plain = loss(0.0)
    assert loss(plain / 2) == pytest.approx(plain / 2, rel=1e-3)
    assert loss(plain + 1) == pytest.approx(1.0, rel=1e-3)
