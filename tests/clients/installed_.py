"""The packages of clients/, installed as their pages say. No test lives here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.api.servers_ import PATIENCE_S, PROJECT


def install_clients(folder: Path) -> Path:
    """Install ner_client and ner_spacy from their folders into one beside everything else; -> that folder."""
    options = ["--quiet", "--disable-pip-version-check", "--no-index", "--no-deps", "--no-build-isolation"]
    packages = [PROJECT / "clients" / name for name in ("python", "spacy")]
    target = folder / "installed"
    command = [sys.executable, "-m", "pip", "install", *options, "--target", target, *packages]
    subprocess.run(command, check=True, timeout=5 * PATIENCE_S, cwd=folder)
    return target
