"""Reads files of a model folder, which may come from anywhere: plain files of its own, none larger than it needs.

What their contents mean is not known here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.errors import ModelRefused

MAX_BYTES: Mapping[str, int] = {
    "config.json": 1_000_000,
    "checksums.json": 1_000_000,
    "card.md": 1_000_000,
    "operating_points.json": 16_000_000,
    "tokenizer.json": 64_000_000,
}
MAX_OTHER_BYTES = 64_000_000  # of a file that the service does not know
MAX_PARAMETERS = 1_000_000_000  # of a model
_OF_WEIGHTS = (".bin", ".h5", ".msgpack", ".onnx", ".ot", ".pt", ".pth")  # files of weights that nobody reads


def check_file(folder: Path, name: str, max_bytes: int | None = None) -> Path:
    """Return the path of a file. Raises ModelRefused unless it is a plain file in the folder and not too large.

    So nothing is opened that never ends (a pipe, a device, a terabyte of zeros), nor anything outside the folder.
    """
    if Path(name).name != name:
        raise ModelRefused(f"{folder} names the file {name!r}; expected the name of a file in that folder")
    path = folder / name
    limit = max_bytes or MAX_BYTES.get(name, MAX_OTHER_BYTES)
    try:
        is_plain, size = path.is_file(), path.stat().st_size
    except (OSError, ValueError) as error:
        raise ModelRefused(f"{path} cannot be read: {error}") from error
    if not is_plain:
        raise ModelRefused(f"{path} cannot be read: it is no plain file")
    if size > limit:
        raise ModelRefused(f"{path} has {size} bytes; expected at most {limit}")
    return path


def check_checkpoint(folder: Path) -> None:
    """Check every file of a Transformers checkpoint; it is their contents that say which of them Transformers opens.

    Raises ModelRefused for what is neither a plain file nor a folder, and for a file that is larger than it needs to
    be. Weights in other formats than safetensors may be there: they are not read.
    """
    templates = folder / "additional_chat_templates"  # of folders in the folder, Transformers looks into this one
    for path in sorted([*folder.iterdir(), *(templates.iterdir() if templates.is_dir() else ())]):
        if path.suffix == ".safetensors":
            check_file(path.parent, path.name, 5 * MAX_PARAMETERS)
        elif not path.is_dir() and path.suffix not in _OF_WEIGHTS:
            check_file(path.parent, path.name)


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Return the object in a file. Raises ModelRefused."""
    path = check_file(folder, name)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelRefused(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise ModelRefused(f"{path} cannot be read: expected a JSON object")
    return found


def read_text(folder: Path, name: str) -> str:
    """Return the text of a file. Raises ModelRefused."""
    path = check_file(folder, name)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ModelRefused(f"{path} cannot be read: {error}") from error
