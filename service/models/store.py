"""Models on disk: `<store>/<name>/<version>/`, written whole or not at all, and refused when anything is amiss."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from service.errors import ModelRefused
from service.models.checkpoint import highest_id, is_checkpoint
from service.models.classifier import TokenClassifier
from service.models.config import ModelConfig
from service.models.folder import MAX_PARAMETERS, check_file, read_json, read_text
from service.models.multi_exit import MultiExitModel
from service.text.encoder import TextEncoder

CONFIG, WEIGHTS, TOKENIZER, CARD, CHECKSUMS, OPERATING_POINTS = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "card.md",
    "checksums.json",
    "operating_points.json",  # only of a calibrated model
)
_CARD_OF_A_CLASSIFIER = """# {name}

A token classifier of Transformers as it is ({labels}), with its own head after the last of {layers} layers. It has no
exits before, so no sentence leaves early; `python -m service distil` makes a model that has, from texts without labels.
What it was trained on, and what its licence allows, is said where it came from.
"""
_REQUIRED = (CONFIG, WEIGHTS, TOKENIZER, CARD)


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model read from disk, in eval mode on the CPU, in float32.

    folder           it was read from: a model folder, or a Transformers checkpoint
    weights_sha256   of the weights file
    operating_points the calibration as JSON, None for a model that has not been calibrated
    """

    config: ModelConfig
    model: MultiExitModel
    text_encoder: TextEncoder
    card: str
    folder: Path
    weights_sha256: str
    operating_points: dict[str, Any] | None

    @property
    def reference(self) -> str:
        """name@version"""
        return f"{self.config.name}@{self.config.version}"


def find_model(reference: str, store: Path) -> Path:
    """Find the folder of `reference`: a folder's path, a name in `store` (its newest version), or name@version."""
    as_path = Path(reference)
    if (as_path / CONFIG).is_file():
        return as_path
    name, _, version = reference.partition("@")
    is_plain = name and Path(name).name == name and not name.startswith(".")  # no way out of the store
    versions = list_versions(store / name) if is_plain else []
    if version and version in versions:
        return store / name / version
    if versions and not version:
        return store / name / versions[-1]
    raise ModelRefused(
        f"no model {reference!r}: expected a folder with a {CONFIG}, or one of {list_models(store)} in {store}"
    )


def list_models(store: Path) -> list[str]:
    """List every name@version in the store, sorted."""
    names = sorted(path.name for path in store.iterdir() if path.is_dir()) if store.is_dir() else []
    return [f"{name}@{version}" for name in names for version in list_versions(store / name)]


def list_versions(folder: Path) -> list[str]:
    """List the versions of one model, oldest first, numbers by value; hidden folders are half written or replaced."""
    folders = [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []
    found = [path.name for path in folders if (path / CONFIG).is_file()]
    return sorted(found, key=lambda version: (not version.isdigit(), int(version) if version.isdigit() else 0, version))


def save_model(folder: Path, model: MultiExitModel, tokenizer: Tokenizer, card: str) -> None:
    """Write a model folder atomically, weights as float16 safetensors; an existing folder is replaced."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    weights = {
        name: (tensor.detach().half() if tensor.is_floating_point() else tensor.detach()).cpu().contiguous()
        for name, tensor in model.state_dict().items()
    }
    save_file(weights, partial / WEIGHTS)
    (partial / WEIGHTS).chmod(0o644)  # safetensors writes for its user alone
    (partial / CONFIG).write_text(json.dumps(model.config.to_json(), indent=2) + "\n", encoding="utf-8")
    tokenizer.save(str(partial / TOKENIZER), pretty=False)
    (partial / CARD).write_text(card, encoding="utf-8")
    write_checksums(partial)
    _swap(partial, folder)


def _swap(partial: Path, folder: Path) -> None:
    """Put a finished folder in the place of another one, or of none."""
    if not folder.exists():
        os.replace(partial, folder)
        return
    retired = folder.with_name(f".{folder.name}.retired")
    shutil.rmtree(retired, ignore_errors=True)
    os.replace(folder, retired)
    try:
        os.replace(partial, folder)
    except OSError:
        os.replace(retired, folder)
        raise
    shutil.rmtree(retired)


def write_checksums(folder: Path) -> None:
    """Record the SHA-256 of every file of a model folder; to be called again after editing its card."""
    files = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != CHECKSUMS)
    sums = {name: _sha256(folder / name) for name in files}
    (folder / CHECKSUMS).write_text(json.dumps(sums, indent=2) + "\n", encoding="utf-8")


def load_model(folder: Path) -> StoredModel:
    """Read and check a model folder, which may come from anywhere. Raises ModelRefused naming what is amiss.

    The folder of a Transformers token classifier gives a model that runs to full depth, with the classifier's own head.
    """
    if not (folder / CHECKSUMS).exists() and is_checkpoint(folder):
        return _load_classifier(folder)
    config = read_config(folder)
    with torch.device("meta"):
        model = MultiExitModel(config)
    expected = model.state_dict()
    weights_sha256 = _check_files(folder, _most_bytes(expected, config))[WEIGHTS]
    operating_points = _read_operating_points(folder, weights_sha256)
    tokenizer = _read_tokenizer(folder, config)
    try:
        weights = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise ModelRefused(f"{folder / WEIGHTS} is no safetensors file: {error}") from error
    _check_weights(folder / WEIGHTS, expected, weights)
    weights = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    model.load_state_dict(weights, assign=True)
    model.requires_grad_(False).eval()
    text_encoder = TextEncoder(tokenizer, config.text, config.labels, config.nested)
    card = read_text(folder, CARD)
    return StoredModel(config, model, text_encoder, card, folder, weights_sha256, operating_points)


def _load_classifier(folder: Path) -> StoredModel:
    classifier = TokenClassifier.read(folder)
    model = classifier.model()
    config, tokenizer = model.config, classifier.checkpoint.tokenizer
    text_encoder = TextEncoder(tokenizer, config.text, config.labels, config.nested)
    card = _CARD_OF_A_CLASSIFIER.format(name=config.name, labels=", ".join(config.labels), layers=config.num_layers)
    return StoredModel(config, model, text_encoder, card, folder, _sha256(folder / WEIGHTS), None)


def _most_bytes(expected: Mapping[str, Tensor], config: ModelConfig) -> int:
    """Return the most bytes of a weights file. Raises ModelRefused for a model that is too large to be one of ours."""
    parameters = sum(tensor.numel() for tensor in expected.values())
    if parameters > MAX_PARAMETERS:
        raise ModelRefused(
            f"{CONFIG} of {config.name}@{config.version} describes a model of {parameters} weights; "
            f"expected at most {MAX_PARAMETERS}"
        )
    return 4 * parameters + 1_000 * len(expected) + 1_000_000  # float32, and a header


def _read_tokenizer(folder: Path, config: ModelConfig) -> Tokenizer:
    """Read the tokenizer; its ids must have a row each in the model's table."""
    path = folder / TOKENIZER
    try:
        tokenizer = Tokenizer.from_file(str(path))
        highest = highest_id(tokenizer)
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise ModelRefused(f"{path} is no tokenizer: {error}") from error
    if highest >= config.encoder.vocab_size:
        raise ModelRefused(
            f"{path} gives pieces ids of up to {highest}; the model has {config.encoder.vocab_size} "
            "(encoder.vocab_size), so it belongs to another model"
        )
    return tokenizer


def _check_weights(path: Path, expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Raise ModelRefused for weights that are missing, too many, of another shape or kind, or not finite."""
    wanted, found = ({name: _kind(tensor) for name, tensor in weights.items()} for weights in (expected, given))
    if wanted != found:
        wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        first = wrong[0]
        raise ModelRefused(
            f"{path} does not fit its {CONFIG}: {len(wrong)} weights differ, the first is {first}: "
            f"expected {wanted.get(first, 'none')}, given {found.get(first, 'none')}"
        )
    for name, tensor in given.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ModelRefused(f"{path} has numbers that are not finite in {name}; was its training ended too early?")


def _kind(tensor: Tensor) -> str:
    """Return a weight's shape, and whether it holds integers."""
    return f"{tuple(tensor.shape)}{'' if tensor.is_floating_point() else ' of integers'}"


def read_config(folder: Path) -> ModelConfig:
    """Read a model folder's config alone; raises ModelRefused where it cannot be read."""
    return ModelConfig.from_json(read_json(folder, CONFIG))


def write_operating_points(folder: Path, operating_points: dict[str, Any]) -> None:
    """Put a calibration into a model folder, in place of an earlier one; the folder is replaced as a whole."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(folder, partial)
    (partial / OPERATING_POINTS).write_text(json.dumps(operating_points, indent=1) + "\n", encoding="utf-8")
    write_checksums(partial)
    _swap(partial, folder)


def _read_operating_points(folder: Path, weights_sha256: str) -> dict[str, Any] | None:
    path = folder / OPERATING_POINTS
    if not path.is_file():
        return None
    try:
        found = read_json(folder, OPERATING_POINTS)
        measured_on = found["provenance"]["weights_sha256"]
    except (ModelRefused, KeyError, TypeError) as error:
        raise ModelRefused(f"{path} cannot be read: {error!r}; calibrate the model again") from error
    if measured_on != weights_sha256:
        raise ModelRefused(f"{path} was measured on other weights than {WEIGHTS}: calibrate the model again")
    return found


def _check_files(folder: Path, max_weights_bytes: int) -> dict[str, str]:
    """Return the checksums, after checking every file that they name against its own."""
    sums = read_json(folder, CHECKSUMS)
    if missing := [name for name in _REQUIRED if not (folder / name).is_file() or name not in sums]:
        raise ModelRefused(f"{folder} lacks {missing}, or its {CHECKSUMS} does")
    for name, expected in sums.items():
        if Path(name).name == name and not (folder / name).is_file():
            raise ModelRefused(f"{folder / name} is not the file that {CHECKSUMS} describes: damaged or replaced")
        path = check_file(folder, name, max_weights_bytes if name == WEIGHTS else None)
        if _sha256(path) != expected:
            raise ModelRefused(f"{path} is not the file that {CHECKSUMS} describes: damaged or replaced")
    return dict(sums)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
