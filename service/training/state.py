"""Saves the state of a run in its output folder, so that an interrupted run can go on from there."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from service.errors import BadInput
from service.models.multi_exit import MultiExitModel
from service.training.judge import Verdict
from service.training.optimisation import Optimisation

log = logging.getLogger(__name__)


def claim_output(output: Path, run: dict[str, Any]) -> None:
    """Make the folder `output` and write into it which run it belongs to.

    Raises BadInput if it holds epochs of another run, or cannot be written.
    """
    path = output / "run.json"
    wanted = json.dumps(run, indent=2) + "\n"
    has_epochs = (output / "checkpoint.pt").exists()
    if has_epochs and path.exists() and path.read_text(encoding="utf-8") != wanted:
        raise BadInput(
            f"{output} holds a run of another recipe, encoder or data ({path}); "
            "resume with the same ones, or give another --output"
        )
    partial = path.with_suffix(".partial")
    try:
        output.mkdir(parents=True, exist_ok=True)
        partial.write_text(wanted, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise BadInput(f"{output} cannot be written ({error.strerror}); give another --output") from error


class TrainingState:
    """Holds the state of a run: its last finished epoch, the history, the best epoch and its weights."""

    def __init__(self) -> None:
        self.epoch = 0
        self.step = 0  # of the epoch behind it, and
        self.exit_losses: list[float] = []  # the sums of these steps
        self.best_epoch = 0
        self.best_dev_f1: list[float] = []
        self.best_score = 0.0
        self.best_weights: dict[str, Tensor] = {}
        self.history: list[dict[str, Any]] = []

    @property
    def latest_f1(self) -> str:
        """The dev F1 x 100 of every exit after the last finished epoch, as text."""
        return " ".join(f"{100 * f1:.1f}" for f1 in self.history[-1]["dev_f1_per_exit"]) if self.history else "-"

    @property
    def epochs_without_gain(self) -> int:
        """How many epochs have passed since the best one."""
        return self.epoch - self.best_epoch

    def record(self, losses: list[float], verdict: Verdict, model: MultiExitModel) -> None:
        """Record a finished epoch: its mean loss per exit, and the verdict on `model`; keep the weights of the best."""
        self.epoch += 1
        self.step, self.exit_losses = 0, []
        if not self.best_epoch or verdict.score > self.best_score:
            self.best_epoch, self.best_dev_f1, self.best_score = self.epoch, verdict.f1, verdict.score
            self.best_weights = {name: tensor.cpu().clone() for name, tensor in model.state_dict().items()}
        row = {"epoch": self.epoch, "loss_per_exit": losses, "dev_f1_per_exit": verdict.f1, "score": verdict.score}
        self.history.append(row)

    def save(self, output: Path, optimisation: Optimisation) -> None:
        """Write the history and then the checkpoint, each atomically.

        A run that is killed between the two repeats the epoch and writes both again.
        """
        lines = "".join(json.dumps(row) + "\n" for row in self.history)
        (output / "history.partial").write_text(lines, encoding="utf-8")
        os.replace(output / "history.partial", output / "history.jsonl")
        checkpoint = {"state": dict(vars(self)), "optimisation": optimisation.state_dict()}
        torch.save(checkpoint, output / "checkpoint.partial")
        os.replace(output / "checkpoint.partial", output / "checkpoint.pt")

    @classmethod
    def resume(cls, output: Path, optimisation: Optimisation) -> TrainingState:
        """Load the checkpoint if there is one, else return the state of a new run.

        Raises BadInput for a checkpoint that another version of this program wrote.
        """
        state = cls()
        path = output / "checkpoint.pt"
        if path.is_file():
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
            if checkpoint.keys() != {"state", "optimisation"}:
                raise BadInput(f"{path} was written by another version of this program; give another --output")
            vars(state).update(checkpoint["state"])
            optimisation.load_state_dict(checkpoint["optimisation"])
            log.info("resuming after epoch %d and %d batches", state.epoch, state.step)
        return state
