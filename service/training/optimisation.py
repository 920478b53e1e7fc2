"""Moves the weights of a model: by parameter groups and a schedule of rates, and keeps their moving average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from service.models.multi_exit import MultiExitModel
from service.training.recipe import Recipe


class Optimisation:
    """Moves a model's weights step by step, and keeps their moving average, which is judged and saved."""

    def __init__(self, model: MultiExitModel, recipe: Recipe, steps_per_epoch: int) -> None:
        self._model, self._clip_norm = model, recipe.clip_norm
        self._optimizer = torch.optim.AdamW(parameter_groups(model, recipe), fused=True)
        self._schedule = linear_schedule(self._optimizer, recipe, steps_per_epoch)
        self._average = moving_average(model, recipe.average_decay)

    @property
    def averaged(self) -> MultiExitModel:
        """The model with the averaged weights, and with the buffers as the last step left them."""
        return cast("MultiExitModel", self._average.module)

    def step(self, loss: Tensor) -> None:
        """Go one step down the gradient of `loss`, a scalar."""
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._clip_norm)
        self._optimizer.step()
        self._schedule.step()
        self._average.update_parameters(self._model)

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next step depends on, the model's weights included."""
        return {
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "average": self._average.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._average.load_state_dict(state["average"])


def parameter_groups(model: MultiExitModel, recipe: Recipe) -> list[dict[str, Any]]:
    """Return groups of parameters with the same rate and weight decay, as an optimiser takes them.

    Encoder and exits have rates of their own; word shapes have that of the exits. Biases and LayerNorms do not decay.
    """
    groups: dict[tuple[float, float], list[Tensor]] = {}
    depth = model.config.num_layers
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.startswith("exits.") or ".shapes." in name:
            rate = recipe.exit_rate
        else:
            layer = int(name.split(".")[2]) + 1 if name.startswith("encoder.layers.") else 0
            rate = recipe.encoder_rate * recipe.rate_decay ** (depth - layer)
        decay = recipe.weight_decay if parameter.dim() > 1 and not name.endswith("bias") else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def linear_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, steps_per_epoch: int) -> LambdaLR:
    """Return a schedule of rates: they rise linearly in the warm-up, then fall linearly.

    They would reach zero a twentieth of the run's length after its end.
    """
    total = recipe.epochs * steps_per_epoch * 1.05  # so that the last steps still move something
    warmup = max(1.0, recipe.warmup * total)
    return LambdaLR(optimizer, lambda step: min((step + 1) / warmup, max(0.0, (total - step) / (total - warmup))))


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """Return an average of a model's weights over steps.

    Its decay grows from 1/10 to `decay`, so that the first weights are forgotten.
    """

    def follow(averages: Sequence[Tensor], weights: Sequence[Tensor], _: Tensor | int) -> None:
        steps = int(average.n_averaged)  # this one is on the CPU; the one given is on the device, to be waited for
        get_ema_multi_avg_fn(min(decay, steps / (9 + steps)))(averages, weights, steps)

    average = AveragedModel(model, multi_avg_fn=follow)
    average.update_parameters(model)  # the first call copies; from here on, every step is averaged
    return average
