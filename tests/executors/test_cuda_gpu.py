"""The executor for GPUs, on one: reported as not run where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from service.executors.choose import make_executor
from service.executors.cuda import CudaExecutor, Gpu
from service.executors.executor import Executor
from service.exits.policies.vee import Vee
from service.models.packed import Ragged
from service.stepping.advance import advance
from service.stepping.passage import Passage
from tests.executors.cuda_ import StandIn
from tests.executors.executors_ import CONFIGS, readings_of, shared_model
from tests.models_ import eager, random_sequences, tiny_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: not run here"),
]

CUDA = torch.device("cuda")
INPUTS = random_sequences((5, 1, 17, 9, 9, 2, 30, 12))
ATOL = 0.15  # of log-probabilities, bfloat16 against float32


def on_gpu(name: str = "as shipped") -> Executor:
    executor = make_executor("cuda", shared_model(name), device="cuda")
    assert isinstance(executor, CudaExecutor)
    return executor


@contextmanager
def no_waiting() -> Iterator[None]:
    """PyTorch raises an error where the host would wait for the GPU, other than for an event, as it does on purpose."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", CONFIGS)
def test_every_exit_says_what_it_says_in_float32_on_the_cpu(name: str) -> None:
    for found, expected in zip(
        readings_of(on_gpu(name), INPUTS), readings_of(eager(shared_model(name)), INPUTS), strict=True
    ):
        torch.testing.assert_close(found.table.cpu(), expected.table, rtol=0, atol=ATOL)
        for mean in ("entropy_mean", "confidence_mean"):
            np.testing.assert_allclose(found.figure(mean), expected.figure(mean), atol=0.02)


def test_attention_gives_a_sequence_the_same_bits_alone_and_in_a_batch() -> None:
    gpu, lengths = Gpu(CUDA), (14, 512, 3, 128, 33)
    generator = torch.Generator(CUDA).manual_seed(0)
    query, key, value = torch.randn(3, sum(lengths), 12, 64, device=CUDA, generator=generator).bfloat16()
    together = gpu.attend(query, key, value, *[Ragged(lengths, CUDA)] * 2)
    start = 0
    for length in lengths:
        own = slice(start, start := start + length)
        alone = gpu.attend(query[own], key[own], value[own], *[Ragged((length,), CUDA)] * 2)
        assert torch.equal(together[own], alone), length


def test_attention_finds_what_the_stand_in_of_the_other_tests_does() -> None:
    rows = Ragged((14, 1, 40), CUDA)
    generator = torch.Generator(CUDA).manual_seed(0)
    query, key, value = torch.randn(3, 55, 12, 32, device=CUDA, generator=generator).bfloat16()
    found, expected = Gpu(CUDA).attend(query, key, value, rows, rows), StandIn().attend(query, key, value, rows, rows)
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)


def test_the_same_step_twice_gives_the_same_bits() -> None:
    once, again = (readings_of(on_gpu(), INPUTS) for _ in range(2))
    for one, other in zip(once, again, strict=True):
        assert torch.equal(one.table, other.table) and one.summary.tolist() == other.summary.tolist()
        assert one.candidates.cells.tobytes() == other.candidates.cells.tobytes()


def test_a_sequence_has_the_same_bits_alone_and_in_a_batch() -> None:
    """Not certain: cuBLAS chooses an algorithm by the number of rows. Where this fails, products need fixed tiles."""
    executor = on_gpu()
    together = [reading.split() for reading in readings_of(executor, INPUTS)]
    for index, own in enumerate(INPUTS):
        for layer, alone in enumerate(readings_of(executor, [own])):
            assert torch.equal(together[layer][index].table, alone.table), (index, layer + 1)
            assert together[layer][index].summary.tolist() == alone.summary.tolist(), (index, layer + 1)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_the_host_waits_for_nothing_but_its_one_copy() -> None:
    executor = on_gpu()
    states, _ = executor.run_layer(1, INPUTS, [None] * len(INPUTS))  # what happens only once
    with no_waiting():
        states, _ = executor.run_layer(2, INPUTS, states)
        executor.run_layer(3, INPUTS[1:], states[1:])


def walk(executor: Executor) -> list[Passage]:
    """Passages that join one layer after another, and go on together once they have caught up."""
    passages = [Passage(own, Vee(tau=0.0, patience=1)) for own in random_sequences([6] * 3)]
    for members in ([0], [0], [1, 2], [2, 1], [1, 0, 2], [0, 1], [2]):
        advance(executor, [passages[index] for index in members])
    for passage in passages:
        passage.spans = passage.decode()
    return passages


def test_mixed_steps_show_policies_what_the_eager_executor_does_on_the_cpu() -> None:
    gpu = make_executor("cuda", tiny_model(), device="cuda")
    for found, expected in zip(walk(gpu), walk(eager()), strict=True):
        assert found.history == [pytest.approx(seen, abs=0.01) for seen in expected.history]
