"""What needs a GPU: reported as not run where there is none."""

from __future__ import annotations

import pytest
import torch

from service.models.packed import pack
from tests.models_ import random_sequences, tiny_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: not run here"),
]


@torch.inference_mode()
def test_every_exit_says_the_same_on_a_gpu_as_on_the_cpu() -> None:
    sequences, model = random_sequences((5, 1, 17, 9)), tiny_model()
    on_cpu = model(pack(sequences, torch.device("cpu")))
    cuda = torch.device("cuda")
    on_gpu = model.to(cuda)(pack(sequences, cuda))
    for expected, table in zip(on_cpu, on_gpu, strict=True):
        torch.testing.assert_close(table.cpu(), expected, rtol=1e-4, atol=1e-4)
