"""For all tests: models are tiny, so more than one thread only costs."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
