"""What needs a GPU: reported as not run where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from service.engine.sequence import CapturedPolicy, Request, Sequence
from service.executors.eager import EagerExecutor
from service.exits.catalog import PolicyCatalog
from service.exits.consistency import CONSISTENCIES
from service.exits.policies.vee import Vee
from service.exits.policy import ExitPolicy
from service.exits.reading import Reading
from service.models.packed import pack
from service.stepping.stepper import ModelStepper
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


def walk(device: torch.device) -> list[Sequence]:
    """One sequence for every policy, all through the layers together."""
    runner, sequences = ModelStepper(EagerExecutor(tiny_model(), device)), []
    for policy, own in zip(POLICIES, random_sequences([6] * len(POLICIES)), strict=True):
        request = Request((), deadline=1.0, submitted=0.0, wants_trace=True, captured=CapturedPolicy(policy, 1))
        sequences.append(Sequence(request, own))
    for layer in range(1, runner.num_layers + 1):
        for sequence, evidence in zip(sequences, runner.run_layer(layer, sequences), strict=True):
            sequence.history.append(evidence)
    for sequence, spans in zip(sequences, runner.read_spans(sequences), strict=True):
        sequence.spans = spans
    return sequences


def test_a_mixed_step_is_the_same_on_a_gpu_as_on_the_cpu() -> None:
    for found, expected in zip(walk(CUDA), walk(CPU), strict=True):
        assert found.history == [pytest.approx(seen, rel=1e-3, abs=1e-3) for seen in expected.history]
        assert [span[:3] for span in found.spans] == [span[:3] for span in expected.spans]
        assert len(found.trace or []) == len(expected.trace or []) == 4
