"""Holds the teachers of a training, from which all exits are distilled: finished models, and token classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from service.errors import BadInput
from service.models.checkpoint import is_checkpoint
from service.models.classifier import TokenClassifier
from service.models.config import ModelConfig
from service.models.multi_exit import MultiExitModel
from service.models.packed import Packed
from service.models.store import CHECKSUMS, load_model


class Teachers:
    """Computes what several teachers hold of the cells of a batch.

    They need the student's labels and cells, so its tokenizer, text config and word shapes; their encoders may differ.
    """

    def __init__(self, models: Sequence[MultiExitModel], device: torch.device) -> None:
        """Take the models over to `device`."""
        self._models = [model.to(device).eval() for model in models]

    @classmethod
    def read(cls, folders: Sequence[Path], student: ModelConfig, device: torch.device) -> Teachers:
        """Read model folders, and folders of Transformers token classifiers, whose tags give soft tables.

        Raises BadInput for a model that sees other cells or labels than the student. A token classifier may know more
        labels; what it finds of them is no entity.
        """
        models = []
        for folder in folders:
            if not (folder / CHECKSUMS).is_file() and is_checkpoint(folder):
                models.append(_classifier(folder, student))
                continue
            stored = load_model(folder)
            for name in ("labels", "nested", "text", "word_shapes"):
                given, wanted = getattr(stored.config, name), getattr(student, name)
                if given != wanted:
                    raise BadInput(f"the teacher {folder} has {name} {given}, the model to train has {wanted}")
            models.append(stored.model)
        return cls(models, device)

    @torch.no_grad()
    def __call__(self, packed: Packed) -> Tensor:
        """Return the mean of the distributions of all last exits, (cells, K)."""
        tables = []
        for model in self._models:
            state, last = model.embed(packed), model.config.num_layers
            for layer in range(1, last + 1):
                state = model.run_layer(layer, state, packed)
            tables.append(model.exit_table(last, state, packed).exp())
        return torch.stack(tables).mean(dim=0)


def _classifier(folder: Path, student: ModelConfig) -> MultiExitModel:
    """Read a token classifier whose tables have the student's labels and cells."""
    classifier = TokenClassifier.read(folder)
    theirs, ours = classifier.checkpoint.config.vocab_size, student.encoder.vocab_size
    if theirs != ours:
        raise BadInput(
            f"the teacher {folder} has {theirs} pieces, the model to train has {ours}; expected one tokenizer"
        )
    if student.nested:
        raise BadInput(f"the teacher {folder} finds flat entities, and the model to train nested ones")
    return classifier.model(labels=student.labels, text=student.text, soft=True)
