"""Computes the loss that a step of training minimises, composed as a recipe says. Its formulas are in `loss`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from service.assets import hashed_layers
from service.errors import BadInput
from service.models.biaffine import Projections
from service.models.device import has_fast_bfloat16
from service.models.multi_exit import MultiExitModel
from service.models.packed import Packed
from service.text.types import SequenceInput
from service.training.loss import distance_loss, exit_weights, multi_exit_loss
from service.training.recipe import Recipe
from service.training.word_layers import SampledLayers, cell_layers

PROTOTYPE_DECAY = 0.99  # of a prototype's moving average, per batch (our choice: the paper's is unknown to us)
HARD = 0.05  # a cell without an entity is a hard negative if one has more than this probability there (ours)


class TrainingLoss:
    """Computes the loss of batches of a training set."""

    def __init__(
        self,
        recipe: Recipe,
        start: MultiExitModel | None,
        model: MultiExitModel,
        sequences: Sequence[SequenceInput],
        device: torch.device,
    ) -> None:
        """Prepare for batches of `sequences`; `start` is the model that training starts from, None for an encoder.

        Raises BadInput for a recipe that has to start from a model if there is none.
        """
        self._recipe, self._model, self._device = recipe, model, device
        self._weights = exit_weights(recipe.exit_weights, model.config.num_exits)
        self._hashed = None if recipe.hash == "none" else list(map(hashed_layers(model).of, sequences))
        self._sampled: SampledLayers | None = None
        if recipe.halting:
            if start is None:
                raise BadInput("halting is the second stage of a training: start from a model, not from an encoder")
            self._sampled = SampledLayers(start, sequences, device)

    def seed(self, seed: str) -> None:
        """Seed the draws of halting layers, if there are any."""
        if self._sampled is not None:
            self._sampled.seed(seed)

    def __call__(
        self, batch: Sequence[int], packed: Packed, allowed: Tensor, taught: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the scalar to minimise, and (exits,) the cross-entropy of every exit, detached.

        batch   indices of the sequences of the training set that are packed
        allowed (cells, K) which labels each valid cell may have
        taught  (cells, K) the distribution that teachers give; None: there are no teachers
        """
        layers = of_cells = None
        if self._hashed is not None:
            layers = torch.from_numpy(np.concatenate([self._hashed[index] for index in batch])).to(self._device)
        if self._sampled is not None:
            layers = torch.from_numpy(np.concatenate([self._sampled.of(index) for index in batch])).to(self._device)
            of_cells = cell_layers(packed, layers)
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=has_fast_bfloat16(self._device)):
            exits = list(self._model.run_exits(packed, layers))
        tables = [torch.log_softmax(scores, dim=1) for scores, _ in exits]
        words = len(packed.first_piece)
        distillation = self._recipe.distillation
        loss, losses = multi_exit_loss(tables, allowed, words, self._weights, distillation, of_cells, taught)
        loss = (loss - self._recipe.flood).abs()  # flooding (Ishida et al. 2020), as TOKEE has it
        if self._recipe.distance_weight:
            projections = [of_exit for _, of_exit in exits]
            loss = loss + self._recipe.distance_weight * self._distance_loss(packed, tables, projections, allowed)
        return loss, losses

    def _distance_loss(
        self, packed: Packed, tables: Sequence[Tensor], projections: Sequence[Projections], allowed: Tensor
    ) -> Tensor:
        """Return the weighted sum of the distance loss over exits; first move each exit's prototypes to the batch."""
        first, last = packed.words_of_cells
        is_sure, gold = allowed.sum(dim=1) == 1, allowed.long().argmax(dim=1)
        prototypes = self._model.get_buffer("prototypes")
        total = tables[-1].new_zeros(())
        for weight, table, (of_first, of_last), of_exit in zip(
            self._weights, tables, projections, prototypes, strict=True
        ):
            chosen = (is_sure & ((gold > 0) | (table[:, 0].detach().exp() < 1 - HARD))).nonzero().squeeze(1)
            if not len(chosen):
                continue
            points = of_first[first[chosen]] + of_last[last[chosen]]
            labels = gold[chosen]
            move_prototypes(of_exit, points.detach(), labels)
            total = total + weight * distance_loss(points, of_exit, labels)
        return total


def move_prototypes(prototypes: Tensor, points: Tensor, labels: Tensor) -> None:
    """Move each prototype towards the mean of its label's points; a prototype that is still zero becomes that mean.

    prototypes  (K, rank) changed in place
    points      (cells, rank)
    labels      (cells,)
    """
    counts = torch.bincount(labels, minlength=len(prototypes))
    sums = torch.zeros_like(prototypes).index_add_(0, labels, points.to(prototypes.dtype))
    means = sums / counts.clamp_min(1)[:, None]
    is_new = (prototypes == 0).all(dim=1)
    moved = torch.where(is_new[:, None], means, prototypes.lerp(means, 1 - PROTOTYPE_DECAY))
    prototypes.copy_(torch.where((counts > 0)[:, None], moved, prototypes))
