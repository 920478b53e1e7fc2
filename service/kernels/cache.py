"""Chooses where compiled kernels are kept: in a separate folder for every state of their source.

Numba looks only at the file of a kernel, and not at the files of the kernels that it calls: after an upgrade in place,
an old kernel would go on calling old versions of those.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numba

HERE = Path(__file__).parent


def keep_by_source(package: Path = HERE) -> None:
    """Have numba keep what it compiles from now on in a folder of NUMBA_CACHE_DIR, or of the package's __pycache__."""
    digest = hashlib.sha256()
    for source in sorted(package.glob("*.py")):
        digest.update(source.read_bytes())
    config: Any = numba.config  # made of the environment, without types
    base = Path(config.CACHE_DIR or package / "__pycache__")
    config.CACHE_DIR = str(base / f"kernels-{digest.hexdigest()[:16]}")
