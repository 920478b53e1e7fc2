"""Where compiled kernels are kept: in a folder of their own for every state of their source.

Numba looks at the file of a kernel alone, not at those of the kernels that it calls: after an upgrade in place, an old
one would go on calling what its callees were.
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
