"""Holds the formulas of the training loss. `training_loss` applies them to a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from service.training.recipe import ExitWeights


def exit_weights(kind: ExitWeights, num_layers: int) -> list[float]:
    """Return one weight per exit, 1 in sum; "linear" is m / sum(m), Eq. 5 of VEE-BERT."""
    power = {"linear": 1.0, "sqrt": 0.5, "uniform": 0.0}[kind]
    weights = [float(layer) ** power for layer in range(1, num_layers + 1)]
    return [weight / sum(weights) for weight in weights]


def multi_exit_loss(
    tables: Sequence[Tensor],
    allowed: Tensor,
    num_words: int,
    weights: Sequence[float],
    distillation: float,
    cell_layers: Tensor | None = None,
    taught: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the scalar to minimise, and (exits,) the cross-entropy of every exit, detached.

    tables        per exit, (cells, K) log-probabilities of the packed table
    allowed       (cells, K) which labels each valid cell may have: its gold label, or all that nothing speaks against
    num_words     words of the batch
    weights       of every exit
    distillation  weight of the distillation (0: none)
    cell_layers   (cells,) the last layer at which one of the cell's words moves; the cell does not count at later
                  exits, and at earlier ones it is distilled from its distribution after that layer. None: all words
                  move to the end

    The cross-entropy of Eq. 4 is a sum over cells, so it grows with the square of the length; ours is that sum divided
    by the number of words in the batch: an entity weighs the same in a long and a short sentence, and the scale does
    not depend on the batch. Of a cell that may have several labels, the sum of their probabilities counts (partial
    annotation). Distillation adds the cross-entropy with the last exit's distribution, times its weight and normalised
    in the same way; without teachers the last exit itself is not distilled and gets no gradient from it.
    """
    teacher = taught if taught is not None else _last_distribution(tables, cell_layers)
    num_distilled = len(tables) - (taught is None)
    losses, total = [], tables[-1].new_zeros(())
    for layer, (table, weight) in enumerate(zip(tables, weights, strict=True), 1):
        of_gold, of_teacher = table.masked_fill(~allowed, -torch.inf).logsumexp(dim=1), None
        if distillation and layer <= num_distilled:
            of_teacher = (teacher * table).sum(dim=1)
        if cell_layers is not None:
            counts = cell_layers >= layer
            of_gold = of_gold * counts
            of_teacher = None if of_teacher is None else of_teacher * (cell_layers > layer)
        losses.append(-of_gold.sum() / num_words)
        total = total + weight * losses[-1]
        if of_teacher is not None:
            total = total - distillation * weight * of_teacher.sum() / num_words
    return total, torch.stack(losses).detach()


def _last_distribution(tables: Sequence[Tensor], cell_layers: Tensor | None) -> Tensor:
    """Return what the last exit holds of each cell, or the exit after which the cell's words moved last: (cells, K)."""
    last = tables[-1].detach()
    if cell_layers is not None:
        for layer, table in enumerate(tables[:-1], 1):
            last = torch.where((cell_layers == layer)[:, None], table.detach(), last)
    return last.exp()


def distance_loss(points: Tensor, prototypes: Tensor, labels: Tensor) -> Tensor:
    """Compute the distance-aware regulariser of DE3-BERT, as we read it: pull each cell to its label's prototype.

    The formula of the paper is not known to us. Ours is the loss of prototypical networks (Snell et al. 2017), the
    cross-entropy of the softmax over negative squared distances, here divided by the dimensions.

    points      (cells, rank) where the candidate cells lie
    prototypes  (K, rank) of the labels; they get no gradient
    labels      (cells,) gold labels of the cells
    """
    squared = (points[:, None, :] - prototypes.detach()).square().mean(dim=2)
    return torch.nn.functional.cross_entropy(-squared, labels)
