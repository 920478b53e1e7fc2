"""The executor for GPUs, on one: reported as not run where there is none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from service.executors.choose import make_executor
from service.executors.cuda import CudaExecutor, Gpu
from service.executors.executor import Executor
from service.exits.policies.full_depth import FullDepth
from service.exits.policies.vee import Vee
from service.exits.reading import Reading
from service.models.packed import Ragged
from service.stepping.advance import advance
from service.stepping.passage import Passage
from tests.executors.cuda_ import StandIn, forget
from tests.executors.executors_ import CONFIGS, readings_of, shared_model
from tests.models_ import eager, random_sequences, tiny_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: not run here"),
]

CUDA = torch.device("cuda")
INPUTS = random_sequences((5, 1, 17, 9, 9, 2, 30, 12))
ATOL = 0.15  # of log-probabilities, bfloat16 against float32
GRAPHED = [
    "as shipped",
    "reach 1, first pieces",
    "no reach",
    "ALBERT",
    "RoBERTa",
    "DistilBERT",
    "MPNet",
]  # with kernels


def on_gpu(name: str = "as shipped") -> CudaExecutor:
    executor = make_executor("cuda", shared_model(name), device="cuda")
    assert isinstance(executor, CudaExecutor)
    return executor


def replaying(name: str = "as shipped") -> CudaExecutor:
    """An executor that has recorded the steps that follow."""
    executor = on_gpu(name)
    for _ in range(2):
        readings_of(executor, INPUTS)
        for own in INPUTS:
            readings_of(executor, [own])
    return executor


def replayed(executor: CudaExecutor) -> int:
    """How many steps were graphs."""
    assert executor.fixed_steps is not None and not executor.fixed_steps.graphs.has_failed
    return executor.fixed_steps.graphs.counts.replayed


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


def assert_same_bits(once: Sequence[Reading], again: Sequence[Reading]) -> None:
    for one, other in zip(once, again, strict=True):
        assert torch.equal(one.table, other.table) and one.summary.tolist() == other.summary.tolist()
        assert one.candidates.cells.tobytes() == other.candidates.cells.tobytes()


def test_the_same_step_twice_gives_the_same_bits() -> None:
    assert_same_bits(*(readings_of(on_gpu(), INPUTS) for _ in range(2)))


@pytest.mark.parametrize("name", GRAPHED)
def test_a_graph_gives_the_bits_of_the_same_kernels_launched_one_by_one(name: str) -> None:
    executor = on_gpu(name)
    launched = readings_of(executor, INPUTS)
    for _ in range(3):
        before = replayed(executor)
        forget(executor)  # what is left in rows that are nobody's changes nothing
        assert_same_bits(launched, readings_of(executor, INPUTS))
        assert replayed(executor) == before + len(launched)


@pytest.mark.parametrize("name", GRAPHED)
def test_a_graph_says_what_steps_outside_fixed_memory_do(name: str) -> None:
    executor, outside = replaying(name), on_gpu(name)
    outside.fixed_steps = None
    for found, expected in zip(readings_of(executor, INPUTS), readings_of(outside, INPUTS), strict=True):
        torch.testing.assert_close(found.table, expected.table, rtol=0, atol=ATOL)
        np.testing.assert_allclose(found.summary, expected.summary, atol=0.05, rtol=0.05)


def test_several_layers_in_one_graph_give_the_bits_of_one_after_the_other() -> None:
    executor = on_gpu()
    for _ in range(3):
        states, _ = executor.run_layer(1, INPUTS, [None] * len(INPUTS), with_exit=False)
        states, _ = executor.run_layer(2, INPUTS, states, with_exit=False)
        _, expected = executor.run_layer(3, INPUTS, states)
        _, found = executor.run_layer(1, INPUTS, [None] * len(INPUTS), through=3)
        assert found is not None and expected is not None
        assert_same_bits([found], [expected])
    assert replayed(executor) == 8


def test_sequences_that_join_and_leave_are_replayed_as_well() -> None:
    executor, reference = on_gpu(), eager(shared_model("as shipped"))
    order = np.random.default_rng(0)
    for _ in range(4):
        members = order.permutation(len(INPUTS)).tolist()
        first, second = members[:3], members[3:]
        early, _ = executor.run_layer(1, [INPUTS[index] for index in first], [None] * 3)
        late, _ = executor.run_layer(1, [INPUTS[index] for index in second], [None] * 5)
        forget(executor)
        _, found = executor.run_layer(2, [INPUTS[index] for index in members], [*early, *late])
        expected = readings_of(reference, [INPUTS[index] for index in members])[1]
        assert found is not None
        torch.testing.assert_close(found.table.cpu(), expected.table, rtol=0, atol=ATOL)
    assert replayed(executor) > 0


def test_a_sequence_has_the_same_bits_alone_and_in_a_batch() -> None:
    """Not certain: cuBLAS chooses an algorithm by the number of rows. Where this fails, products need fixed tiles."""
    executor = replaying()
    before = replayed(executor)
    together = [reading.split() for reading in readings_of(executor, INPUTS)]
    for index, own in enumerate(INPUTS):
        for layer, alone in enumerate(readings_of(executor, [own])):
            assert torch.equal(together[layer][index].table, alone.table), (index, layer + 1)
            assert together[layer][index].summary.tolist() == alone.summary.tolist(), (index, layer + 1)
    assert replayed(executor) == before + len(together) * (1 + len(INPUTS))


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_the_host_waits_for_nothing_but_its_one_copy() -> None:
    executor = on_gpu()
    states, _ = executor.run_layer(1, INPUTS, [None] * len(INPUTS))  # what happens only once
    with no_waiting():
        states, _ = executor.run_layer(2, INPUTS, states)
        executor.run_layer(3, INPUTS[1:], states[1:])


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_a_replayed_step_waits_for_nothing_but_its_one_copy_and_reserves_no_memory() -> None:
    executor = replaying()
    for _ in range(3):  # without tables
        states, _ = executor.run_layer(1, INPUTS, [None] * len(INPUTS), with_table=False)
        executor.run_layer(2, INPUTS, states, with_table=False)
    before, reserved = replayed(executor), torch.cuda.memory_stats()["allocation.all.allocated"]
    with no_waiting():
        states, _ = executor.run_layer(1, INPUTS, [None] * len(INPUTS), with_table=False)
        executor.run_layer(2, INPUTS, states, with_table=False)
    assert replayed(executor) == before + 2
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == reserved


def test_full_depth_through_the_engines_step_is_one_graph() -> None:
    executor = on_gpu()
    answers = []
    for _ in range(3):
        passages = [Passage(own, FullDepth()) for own in INPUTS]
        before = replayed(executor)
        advance(executor, passages)
        assert all(passage.exit_reason == "last_layer" for passage in passages)
        answers.append([passage.decode() for passage in passages])
    assert replayed(executor) == before + 1
    assert answers[0] == answers[1] == answers[2]


def test_what_cannot_be_recorded_is_launched_and_the_gpu_goes_on() -> None:
    """In a process of its own: if it fails, other tests need not."""
    code = """
import torch
from service.executors.cuda import Gpu
from service.executors.graphs import Graphs
from tests.executors.test_cuda_gpu import CUDA, INPUTS, on_gpu, readings_of, replayed
value, seen = torch.ones(3, device=CUDA), []
graphs = Graphs(Gpu(CUDA).record)
for _ in range(3):
    graphs.run("step", lambda: seen.append(value.sum().item()))  # the host waits, which no graph can hold
print(set(seen), graphs.has_failed)
executor = on_gpu()
for _ in range(2):
    readings_of(executor, INPUTS)
print(replayed(executor))
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.splitlines() == ["{3.0} True", "3"]


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
