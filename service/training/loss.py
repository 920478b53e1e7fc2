"""The training loss: cross-entropy of every exit's table, weighted over exits, with optional self-distillation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from service.training.recipe import ExitWeights


def exit_weights(kind: ExitWeights, num_layers: int) -> list[float]:
    """One weight an exit, summing to 1; "linear" is m / sum(m), Eq. 5 of VEE-BERT."""
    power = {"linear": 1.0, "sqrt": 0.5, "uniform": 0.0}[kind]
    weights = [float(layer) ** power for layer in range(1, num_layers + 1)]
    return [weight / sum(weights) for weight in weights]


def multi_exit_loss(
    tables: Sequence[Tensor], gold: Tensor, num_words: int, weights: Sequence[float], distillation: float
) -> tuple[Tensor, Tensor]:
    """-> the scalar to minimise, and (exits,) the cross-entropy of every exit, detached.

    tables  per exit (cells, K) log-probabilities of the packed table
    gold    (cells,) label of every valid cell
    The cross-entropy of Eq. 4 is a sum over cells, so it grows with the square of the length; ours is that sum divided
    by the number of words in the batch: an entity weighs the same in a long and a short sentence, and the scale does
    not depend on the batch. Distillation adds, with its weight, the cross-entropy with the last exit's distribution
    under the same normalisation; the last exit itself is not distilled and gets no gradient from it.
    """
    teacher = tables[-1].detach().exp()
    losses = [-table.gather(1, gold[:, None]).sum() / num_words for table in tables]
    total = torch.stack([loss * weight for loss, weight in zip(losses, weights, strict=True)]).sum()
    if distillation:
        for table, weight in zip(tables[:-1], weights[:-1], strict=True):
            total = total - distillation * weight * (teacher * table).sum() / num_words
    return total, torch.stack(losses).detach()
