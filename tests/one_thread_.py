"""A fixture that several packages of tests share: what they compare was computed on one thread. No test lives here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="package")
def one_thread() -> Iterator[None]:
    """PyTorch uses one thread, whatever a test before has set."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
