"""What needs a GPU: reported as not run where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from service.executors.eager import EagerExecutor
from service.exits.catalog import PolicyCatalog
from service.exits.consistency import CONSISTENCIES
from service.exits.policies.vee import Vee
from service.exits.policy import ExitPolicy
from service.exits.reading import Reading
from service.models.packed import pack
from service.stepping.advance import advance
from service.stepping.inspection import inspect
from service.stepping.passage import Passage
from tests.exits.strategies_ import REPLAYED, model_of
from tests.exits.tables_ import random_readings, random_rule
from tests.models_ import random_sequences, tiny_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: not run here"),
]

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
NUM_WORDS = (5, 1, 17, 9)
CATALOG = PolicyCatalog(model_of(4, random_rule(4)))
POLICIES = [
    *(CATALOG.policy({"strategy": strategy}) for strategy in REPLAYED),
    *(Vee(*kind, tau=consistency.tau, ensemble=True) for kind, consistency in CONSISTENCIES.items()),
]
every_policy = pytest.mark.parametrize("policy", POLICIES, ids=str)


@torch.inference_mode()
def test_every_exit_says_the_same_on_a_gpu_as_on_the_cpu() -> None:
    sequences, model = random_sequences(NUM_WORDS), tiny_model()
    on_cpu = model(pack(sequences, CPU))
    on_gpu = model.to(CUDA)(pack(sequences, CUDA))
    for expected, table in zip(on_cpu, on_gpu, strict=True):
        torch.testing.assert_close(table.cpu(), expected, rtol=1e-4, atol=1e-4)


@every_policy
def test_every_policy_sees_and_answers_the_same_on_a_gpu_as_on_the_cpu(policy: ExitPolicy) -> None:
    on_cpu = random_readings(NUM_WORDS, 3, 4, seed=0, drift=0.1)
    on_gpu = [Reading(reading.table.to(CUDA), NUM_WORDS, nested=True) for reading in on_cpu]
    seen = policy.evidence(on_gpu)
    assert on_gpu[0].best[0].device.type == CUDA.type  # it is worked out there
    np.testing.assert_allclose(seen, policy.evidence(on_cpu), rtol=1e-4, atol=1e-5)
    assert policy.prediction(on_gpu).span_sets == policy.prediction(on_cpu).span_sets


def walk(device: torch.device) -> list[Passage]:
    """One passage for every policy, all through the layers together, whoever would leave."""
    executor = EagerExecutor(tiny_model(), device)
    inputs = random_sequences([6] * len(POLICIES))
    passages = [Passage(own, policy, keeps_every_exit=True) for policy, own in zip(POLICIES, inputs, strict=True)]
    for _ in range(executor.config.num_layers):
        advance(executor, passages)
    for passage in passages:
        passage.spans = passage.decode()
    return passages


def test_a_mixed_step_is_the_same_on_a_gpu_as_on_the_cpu() -> None:
    for found, expected in zip(walk(CUDA), walk(CPU), strict=True):
        assert found.history == [pytest.approx(seen, rel=1e-3, abs=1e-3) for seen in expected.history]
        assert [span[:3] for span in found.spans] == [span[:3] for span in expected.spans]
        assert len(inspect(found)) == len(inspect(expected)) == 4
