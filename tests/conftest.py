"""For all tests: models are tiny, so more than one thread only costs; and one of them on disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.models_ import save_tiny_model

torch.set_num_threads(1)
if not torch.cuda.is_available():  # read when Triton is imported, which no test has done yet
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of four layers."""
    return save_tiny_model(tmp_path_factory.mktemp("store") / "tiny" / "1")
