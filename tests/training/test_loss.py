"""The loss against Eq. 4 and 5 of VEE-BERT and the distillation term, written out cell by cell."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from service.training.loss import exit_weights, multi_exit_loss

NUM_WORDS, CELLS, LABELS, EXITS = 7, 16, 4, 3


@pytest.fixture
def scores() -> list[Tensor]:
    """Per exit (cells, K), before the softmax, in float64, asking for gradients."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(CELLS, LABELS, generator=generator, dtype=torch.float64) for _ in range(EXITS)]
    return [exit_scores.requires_grad_() for exit_scores in drawn]


@pytest.fixture
def gold() -> Tensor:
    return torch.randint(0, LABELS, (CELLS,), generator=torch.Generator().manual_seed(1))


def only(gold: Tensor) -> Tensor:
    """(cells, K): the gold label of every cell and no other."""
    return torch.nn.functional.one_hot(gold, LABELS).bool()


def tables(scores: list[Tensor]) -> list[Tensor]:
    return [exit_scores.log_softmax(1) for exit_scores in scores]


def softmax(row: list[float]) -> list[float]:
    total = math.fsum(math.exp(value) for value in row)
    return [math.exp(value) / total for value in row]


def transcribed(scores: list[Tensor], gold: Tensor, weights: list[float], distillation: float) -> float:
    probabilities = [[softmax(row) for row in exit_scores.tolist()] for exit_scores in scores]
    total = 0.0
    for exit_, weight in enumerate(weights):
        for cell, label in enumerate(gold.tolist()):
            total -= weight * math.log(probabilities[exit_][cell][label])
            if exit_ < EXITS - 1:
                for teacher, student in zip(probabilities[-1][cell], probabilities[exit_][cell], strict=True):
                    total -= distillation * weight * teacher * math.log(student)
    return total / NUM_WORDS


def test_linear_weights_are_m_over_the_sum_of_m() -> None:
    assert exit_weights("linear", 4) == [0.1, 0.2, 0.3, 0.4]


@pytest.mark.parametrize("kind", ["linear", "uniform"])
@pytest.mark.parametrize("num_layers", [1, 6, 12])
def test_weights_sum_to_one_and_never_fall(kind: str, num_layers: int) -> None:
    weights = exit_weights(kind, num_layers)  # type: ignore[arg-type]
    assert math.fsum(weights) == pytest.approx(1, abs=1e-12)
    assert weights == sorted(weights)
    assert len(weights) == num_layers


@pytest.mark.parametrize("distillation", [0.0, 0.5, 2.0])
def test_the_loss_is_the_weighted_sum_over_exits_and_cells_divided_by_the_words(
    scores: list[Tensor], gold: Tensor, distillation: float
) -> None:
    weights = exit_weights("linear", EXITS)
    loss, _ = multi_exit_loss(tables(scores), only(gold), NUM_WORDS, weights, distillation)
    assert loss.item() == pytest.approx(transcribed(scores, gold, weights, distillation), rel=1e-12)


def test_the_loss_of_every_exit_is_reported_without_weight_distillation_or_gradient(
    scores: list[Tensor], gold: Tensor
) -> None:
    _, losses = multi_exit_loss(tables(scores), only(gold), NUM_WORDS, exit_weights("linear", EXITS), distillation=0.5)
    alone = [transcribed(scores, gold, [float(i == exit_) for i in range(EXITS)], 0.0) for exit_ in range(EXITS)]
    assert losses.tolist() == pytest.approx(alone, rel=1e-12)
    assert not losses.requires_grad


def test_the_last_exit_gets_no_gradient_from_distillation(scores: list[Tensor], gold: Tensor) -> None:
    weights = exit_weights("linear", EXITS)

    def gradients(distillation: float) -> tuple[Tensor, ...]:
        return torch.autograd.grad(
            multi_exit_loss(tables(scores), only(gold), NUM_WORDS, weights, distillation)[0], tuple(scores)
        )

    *earlier, last = gradients(0.0)
    *earlier_distilled, last_distilled = gradients(1.0)
    assert torch.equal(last, last_distilled)
    assert not any(torch.allclose(one, other) for one, other in zip(earlier, earlier_distilled, strict=True))


def test_distillation_pulls_an_exit_towards_the_last_one(scores: list[Tensor], gold: Tensor) -> None:
    def gradient(distillation: float) -> Tensor:
        loss, _ = multi_exit_loss(tables(scores), only(gold), NUM_WORDS, [0.0, 1.0, 0.0], distillation)
        return torch.autograd.grad(loss, scores[1])[0]

    student, teacher = scores[1].softmax(1), scores[2].softmax(1)
    torch.testing.assert_close(gradient(1.0) - gradient(0.0), (student - teacher) / NUM_WORDS)


def test_teachers_pull_every_exit_towards_what_they_hold_and_the_last_one_too(
    scores: list[Tensor], gold: Tensor
) -> None:
    taught = torch.randn(CELLS, LABELS, generator=torch.Generator().manual_seed(2), dtype=torch.float64).softmax(1)
    weights = [0.2, 0.3, 0.5]

    def gradients(distillation: float) -> tuple[Tensor, ...]:
        loss, _ = multi_exit_loss(tables(scores), only(gold), NUM_WORDS, weights, distillation, taught=taught)
        return torch.autograd.grad(loss, tuple(scores))

    for weight, given, with_teachers, without in zip(weights, scores, gradients(0.5), gradients(0.0), strict=True):
        torch.testing.assert_close(with_teachers - without, 0.5 * weight * (given.softmax(1) - taught) / NUM_WORDS)


def test_the_loss_of_a_batch_is_the_mean_over_words_so_doubling_the_batch_changes_nothing(
    scores: list[Tensor], gold: Tensor
) -> None:
    weights = exit_weights("uniform", EXITS)
    once, _ = multi_exit_loss(tables(scores), only(gold), NUM_WORDS, weights, 0.5)
    doubled = [torch.cat([table, table]) for table in tables(scores)]
    twice, _ = multi_exit_loss(doubled, only(torch.cat([gold, gold])), 2 * NUM_WORDS, weights, 0.5)
    torch.testing.assert_close(once, twice)


def test_a_cell_that_may_have_several_labels_costs_minus_the_log_of_their_sum(
    scores: list[Tensor], gold: Tensor
) -> None:
    allowed = only(gold)
    allowed[3, :2] = True
    allowed[5] = True
    _, losses = multi_exit_loss(tables(scores), allowed, NUM_WORDS, exit_weights("linear", EXITS), 0.0)
    for of_exit, loss in zip(scores, losses.tolist(), strict=True):
        rows = [softmax(row) for row in of_exit.tolist()]
        sums = [
            math.fsum(p for p, may in zip(row, of_cell, strict=True) if may)
            for row, of_cell in zip(rows, allowed.tolist(), strict=True)
        ]
        assert loss == pytest.approx(-math.fsum(map(math.log, sums)) / NUM_WORDS, rel=1e-12)


def test_a_cell_that_may_have_any_label_gets_no_gradient(scores: list[Tensor], gold: Tensor) -> None:
    allowed = only(gold)
    allowed[5] = True
    loss, _ = multi_exit_loss(tables(scores), allowed, NUM_WORDS, exit_weights("linear", EXITS), 0.0)
    for gradient in torch.autograd.grad(loss, tuple(scores)):
        assert gradient[5].abs().max() < 1e-12
        assert gradient[4].abs().max() > 1e-4
