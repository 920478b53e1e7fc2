"""The executor for GPUs, on the CPU: what passes between the two, and that it says what the eager one does."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.attention import varlen

from service.executors.cuda import CudaExecutor, Gpu, in_one_split, reason_against
from service.executors.executor import Executor
from service.executors.pytorch import State
from service.exits.reading import Reading
from service.models.config import ModelConfig
from service.models.multi_exit import MultiExitModel
from service.spans.types import FloatArray
from tests.executors.cuda_ import on_stand_in
from tests.executors.executors_ import CONFIGS, kernel_config, readings_of, rows_of, shared_model
from tests.models_ import eager, random_sequences, tiny_model

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
INPUTS = random_sequences((5, 1, 17, 9, 9, 2))
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 0.15}  # of log-probabilities
both_dtypes = pytest.mark.parametrize("dtype", TOLERANCES, ids=str)


def assert_says_the_same(found: Reading | None, expected: Reading | None, atol: float) -> None:
    assert found is not None and expected is not None
    assert (found.num_words, found.nested) == (expected.num_words, expected.nested)
    torch.testing.assert_close(found.table, expected.table, rtol=0, atol=atol)
    own = Reading(found.table, found.num_words, nested=found.nested)  # the same table, worked out as eager does
    assert found.summary.dtype == np.float64
    np.testing.assert_allclose(found.summary, own.summary, rtol=1e-6, atol=1e-6)
    assert found.candidates.counts == own.candidates.counts
    assert found.candidates.cells.tobytes() == own.candidates.cells.tobytes()


@both_dtypes
@pytest.mark.parametrize("name", CONFIGS)
def test_every_exit_says_what_it_says_eagerly(name: str, dtype: torch.dtype) -> None:
    model = shared_model(name)
    executor, _ = on_stand_in(model, dtype)
    for found, expected in zip(readings_of(executor, INPUTS), readings_of(eager(model), INPUTS), strict=True):
        assert_says_the_same(found, expected, TOLERANCES[dtype])


@both_dtypes
@pytest.mark.parametrize("seed", range(4))
def test_sequences_may_leave_and_join_before_every_layer(seed: int, dtype: torch.dtype) -> None:
    random = np.random.default_rng(seed)
    executors: list[Executor] = [on_stand_in(dtype=dtype)[0], eager()]
    states: list[list[State | None]] = [[None] * len(INPUTS) for _ in executors]
    layers = np.zeros(len(INPUTS), dtype=int)
    while len(standing := np.flatnonzero(layers < 4)):
        before = layers[random.choice(standing)]
        ready = np.flatnonzero(layers == before)
        chosen = random.permutation(ready)[: random.integers(1, len(ready) + 1)].tolist()
        readings = []
        for executor, own in zip(executors, states, strict=True):
            given = [own[index] for index in chosen]
            after, reading = executor.run_layer(int(before) + 1, [INPUTS[index] for index in chosen], given)
            readings.append(reading)
            for index, state in zip(chosen, after, strict=True):
                own[index] = state
        layers[chosen] += 1
        assert_says_the_same(*readings, TOLERANCES[dtype])


@pytest.mark.parametrize("name", ["as shipped", "MPNet"])
def test_words_halt_as_they_do_eagerly(name: str) -> None:
    model, random = shared_model(name), np.random.default_rng(0)
    halting = [random.random(one.num_words) < 0.6 for one in INPUTS]
    found, expected = on_stand_in(model, torch.float32)[0], eager(model)
    states, of_eager = [None] * 6, [None] * 6
    for active in (None, halting):
        states, reading = found.run_layer(1 if active is None else 2, INPUTS, states, active=active)
        of_eager, wanted = expected.run_layer(1 if active is None else 2, INPUTS, of_eager, active=active)
        for one, other in zip(rows_of(states), rows_of(of_eager), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
        assert reading is not None and wanted is not None
        torch.testing.assert_close(reading.table, wanted.table, rtol=0, atol=1e-4)


def test_the_encoder_runs_in_bfloat16_and_exits_in_float32() -> None:
    states, reading = on_stand_in()[0].run_layer(1, INPUTS, [None] * 6)
    assert {state.dtype for state, _ in states} == {torch.bfloat16}
    assert reading is not None and reading.table.dtype == torch.float32


def test_a_step_is_one_copy_back_and_sends_only_where_somebody_left_or_joined() -> None:
    executor, gpu = on_stand_in()
    states, copies = [None] * 6, []
    for layer, count in ((1, 6), (2, 6), (3, 4), (4, 4)):
        states, _ = executor.run_layer(layer, INPUTS[:count], states[:count])
        copies.append((gpu.sent, gpu.fetched))
    assert copies == [(1, 1), (1, 2), (2, 3), (2, 4)]


def test_nothing_is_copied_back_where_no_exit_runs() -> None:
    executor, gpu = on_stand_in()
    states, _ = executor.run_layer(1, INPUTS, [None] * 6)
    before = gpu.fetched
    bare, reading = executor.run_layer(1, INPUTS, [None] * 6, with_exit=False)
    assert reading is None and gpu.fetched == before and all(map(torch.equal, rows_of(bare), rows_of(states)))


class Weightless(Gpu):
    """A GPU of meta tensors: they have no values, and whoever asks for one, or mixes them with others, fails."""

    name = "meta"

    def __init__(self) -> None:
        self.device, self._varlen_attn = torch.device("meta"), in_one_split(varlen.varlen_attn)

    def exits_of(self, model: MultiExitModel) -> None:
        """No kernels: they would be compiled."""

    def send(self, host: Tensor) -> Tensor:
        return host.to(self.device)

    def fetch(self, found: Tensor) -> FloatArray:
        assert found.device == self.device
        return np.zeros(found.shape, dtype=np.float32)


def test_a_step_needs_no_value_on_the_host_and_calls_the_attention_that_pytorch_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # knows no meta device
    executor = CudaExecutor(tiny_model(), Weightless())
    states, _ = executor.run_layer(1, INPUTS, [None] * 6)
    monkeypatch.setattr(torch, "tensor", None)  # what it makes of Python's numbers, a GPU would wait for
    states, reading = executor.run_layer(2, INPUTS, states)
    assert reading is not None and reading.candidates.counts == (0,) * 6
    assert [(len(state), state.dtype) for state, _ in states] == [(one.num_pieces, torch.bfloat16) for one in INPUTS]


def test_pytorchs_attention_over_packed_rows_takes_what_it_is_given() -> None:
    parameters = inspect.signature(varlen.varlen_attn).parameters
    positional = [name for name, one in parameters.items() if one.kind is one.POSITIONAL_OR_KEYWORD]
    assert positional[:7] == ["query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k"]
    assert all(one.default is not one.empty for name, one in parameters.items() if name not in positional[:7])
    inspect.signature(in_one_split(varlen.varlen_attn)).bind(*"qkv", "bounds", "bounds", 3, 3)


def test_a_sequence_is_attended_to_in_one_split_wherever_pytorch_knows_splits() -> None:
    def old(query: str, *, scale: float | None = None) -> str:
        return f"{query} {scale}"

    def new(query: str, *, num_splits: int | None = None) -> str:
        return f"{query} {num_splits}"

    assert (in_one_split(old)("asked"), in_one_split(new)("asked")) == ("asked None", "asked 1")


@pytest.mark.parametrize(
    ("function", "keywords"),
    [
        (torch.cuda.CUDAGraph.capture_begin, {"pool", "capture_error_mode"}),
        (torch.cuda.CUDAGraph.capture_end, set()),
        (torch.cuda.CUDAGraph.replay, set()),
        (torch.cuda.graph_pool_handle, set()),
        (torch.cuda.set_sync_debug_mode, {"debug_mode"}),
    ],
)
def test_what_else_is_used_of_pytorch_on_a_gpu_has_the_parameters_that_are_named(
    function: Callable[..., object], keywords: set[str]
) -> None:
    assert keywords <= set(inspect.signature(function).parameters)


def test_padding_and_candidates_use_operators_that_both_versions_have() -> None:
    schema = torch.ops.aten.nonzero_static.default._schema
    assert [argument.name for argument in schema.arguments] == ["self", "size", "fill_value"]
    schema = torch.ops.aten.segment_reduce.default._schema
    assert {"lengths", "unsafe"} <= {argument.name for argument in schema.arguments}


def test_more_candidates_than_words_are_all_there() -> None:
    model = tiny_model()
    for exit_ in model.exits:
        exit_.get_parameter("bias").fill_(3.0)
    (found, *_), (expected, *_) = (readings_of(one, INPUTS) for one in (on_stand_in(model)[0], eager(model)))
    assert sum(found.candidates.counts) > sum(one.num_words for one in INPUTS)
    assert_says_the_same(found, expected, TOLERANCES[torch.bfloat16])


def test_as_many_candidates_as_words_come_with_the_one_copy() -> None:
    model, one = tiny_model(), random_sequences((1,))
    model.exits[0].get_parameter("bias").fill_(9.0)
    _, reading = on_stand_in(model)[0].run_layer(1, one, [None], with_table=False)
    assert reading is not None and reading.candidates.counts == (1,)
    assert reading.candidates.cells[:, :2].tolist() == [[0.0, 0.0]]


def test_a_table_that_nobody_looks_at_is_left_out() -> None:
    _, reading = on_stand_in()[0].run_layer(1, INPUTS, [None] * 6, with_table=False)
    assert reading is not None and len(reading.spans) == 6
    with pytest.raises(RuntimeError, match="without its table"):
        _ = reading.table


def test_states_are_of_one_sequence_each_and_are_left_as_they_were() -> None:
    executor, _ = on_stand_in()
    states, _ = executor.run_layer(1, INPUTS, [None] * 6)
    before = [state.clone() for state, _ in states]
    once, _ = executor.run_layer(2, INPUTS, states)
    again, _ = executor.run_layer(2, INPUTS, states)
    assert all(map(torch.equal, rows_of(once), rows_of(again))) and all(map(torch.equal, rows_of(states), before))
    assert not any(map(torch.equal, rows_of(once), before))


def test_the_model_that_it_is_given_stays_as_it_was() -> None:
    model = tiny_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    on_stand_in(model)
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_it_says_what_its_times_hold_for() -> None:
    described = on_stand_in()[0].describe()
    assert described == {"device": "stand-in", "dtype": "bfloat16", "executor": "cuda", "threads": 1}


# where it cannot run


def narrow(num_heads: int) -> ModelConfig:
    config = kernel_config()
    return replace(config, encoder=replace(config.encoder, num_heads=num_heads))


@pytest.fixture
def capability(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))


def test_without_a_cuda_device_there_is_a_reason_against_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reason_against(kernel_config(), CPU) == "it needs a CUDA device, not cpu"
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert reason_against(kernel_config(), CUDA) == "it needs a CUDA device, not ROCm"


@pytest.mark.parametrize(("major", "minor"), [(7, 5), (6, 1)])
def test_an_old_gpu_is_a_reason_against_it(monkeypatch: pytest.MonkeyPatch, major: int, minor: int) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (major, minor))
    found = reason_against(kernel_config(), CUDA)
    assert found == f"it needs compute capability 8.0, this GPU has {major}.{minor}"


@pytest.mark.usefixtures("capability")
def test_without_triton_a_bias_by_distance_is_a_reason_against_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.executors.cuda.find_spec", lambda _: None)
    assert reason_against(kernel_config(), CUDA) is None
    assert "a bias by distance, for which Triton is needed" in str(reason_against(CONFIGS["MPNet"], CUDA))
    monkeypatch.setattr("service.executors.cuda.find_spec", lambda _: object())
    assert reason_against(CONFIGS["MPNet"], CUDA) is None


@pytest.mark.usefixtures("capability")
def test_heads_that_flash_attention_does_not_know_are_a_reason_against_it() -> None:
    assert reason_against(kernel_config(), CUDA) is None
    assert reason_against(narrow(16), CUDA) == "its heads have 4 dimensions, not a multiple of 8 up to 256"
