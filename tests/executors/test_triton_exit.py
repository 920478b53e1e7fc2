"""An exit as three kernels, compared with float64: on a GPU where there is one, else in Triton's interpreter.

Reported as not run where Triton is missing: it comes with PyTorch's build for CUDA.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import Tensor

from service.executors import triton_norm
from service.executors.cuda import CudaExecutor, Gpu
from service.executors.triton_exit import FIRST, LAST, Found, TritonExit, reason_against
from service.exits.reading import Reading
from service.models.config import ExitConfig, ModelConfig
from service.models.encoder import add_norm
from service.models.multi_exit import MultiExitModel
from service.models.packed import Packed, pack
from service.spans.table import SUMMARY, cell_words, num_cells
from service.text.types import SequenceInput
from tests.executors.cuda_ import StandIn
from tests.executors.executors_ import kernel_config, kernel_model, readings_of
from tests.executors.interpreter_ import mended
from tests.models_ import eager, random_sequences


@pytest.fixture(autouse=True)
def _interpreter() -> None:
    if find_spec("triton") is not None and DEVICE.type == "cpu":
        mended()


needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton: not run here")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ATOL = 3e-4  # of log-probabilities, against float64 on the same states: weights have 16 bits
INPUTS = random_sequences((5, FIRST + 1, LAST + 3))  # one tile, two, and several of all kinds
CONFIGS = {
    "as shipped": kernel_config(),
    "reach 1, first pieces": kernel_config(exits=ExitConfig(rank=16, reach=1, end_piece="first", width_buckets=1)),
    "no reach, one label": kernel_config(exits=ExitConfig(rank=64, reach=0, width_buckets=0), labels=1),
    "many labels, a width between tiles": kernel_config(width=96, num_heads=2, labels=18),
    "ALBERT": kernel_config(shared_layers=True, family="albert"),
}


def states_of(config: ModelConfig, inputs: list[SequenceInput]) -> tuple[Tensor, Packed]:
    """(pieces, hidden) random states as after a layer, in bfloat16."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(sum(one.num_pieces for one in inputs), config.encoder.hidden_size, generator=generator)
    return rows.bfloat16().to(DEVICE), pack(inputs, DEVICE)


def run(model: MultiExitModel, inputs: list[SequenceInput], *, with_table: bool = True) -> Found:
    state, packed = states_of(model.config, inputs)
    return TritonExit(model, DEVICE).run(2, state, packed, with_table=with_table)


def in_double(model: MultiExitModel, inputs: list[SequenceInput]) -> Reading:
    """What PyTorch makes of the same states in float64, on the CPU."""
    state, _ = states_of(model.config, inputs)
    state, packed = state.cpu().double(), pack(inputs, torch.device("cpu"))
    layer = model.encoder.layers[0 if model.config.encoder.shared_layers else 1]
    exit_ = model.exits[1]
    try:
        hidden = layer.double().read(state)
        last = packed.last_piece if model.config.exits.end_piece == "last" else packed.first_piece
        scores, _ = exit_.double().score(hidden[packed.first_piece], hidden[last], packed)
    finally:
        model.float()
    return Reading(torch.log_softmax(scores, dim=1), packed.words.lengths, nested=model.config.nested)


def parts(found: Found, inputs: list[SequenceInput]) -> tuple[np.ndarray, list[int], list[np.ndarray]]:
    """The figures, (sequences, SUMMARY), the numbers of candidates, and those for which there was room."""
    host, count = found.summary.cpu().numpy(), len(inputs)
    figures, counts, rows = np.split(host, [len(SUMMARY) * count, (len(SUMMARY) + 1) * count])
    starts = np.cumsum([0, *(one.num_words for one in inputs)])
    numbers = [int(number) for number in counts]
    rooms = [min(number, one.num_words) for number, one in zip(numbers, inputs, strict=True)]
    cells = [rows.reshape(-1, 4)[start : start + room] for start, room in zip(starts, rooms, strict=False)]
    return figures.reshape(count, len(SUMMARY)), numbers, cells


@needs_triton
@pytest.mark.parametrize("name", CONFIGS)
def test_kernels_find_what_float64_does(name: str) -> None:
    model = kernel_model(CONFIGS[name])
    found, expected = run(model, INPUTS), in_double(model, INPUTS)
    assert found.table is not None
    torch.testing.assert_close(found.table.cpu().double(), expected.table, rtol=0, atol=ATOL)
    highest = expected.table.topk(2, dim=1).values
    is_clear = highest[:, 0] - highest[:, 1] > 2 * ATOL  # elsewhere either label is right
    assert torch.equal(found.labels.cpu()[is_clear], expected.table.argmax(dim=1)[is_clear].int())
    torch.testing.assert_close(found.log_probs.cpu().double(), highest[:, 0], rtol=0, atol=ATOL)
    figures, _, _ = parts(found, INPUTS)
    assert len(set(map(tuple, np.round(expected.summary, 3)))) == len(INPUTS)  # they differ, so places are seen
    np.testing.assert_allclose(figures, expected.summary, rtol=1e-3, atol=1e-3)


@needs_triton
def test_candidates_are_the_cells_with_a_label_in_the_order_of_the_table() -> None:
    model = kernel_model(CONFIGS["as shipped"])
    found = run(model, INPUTS)
    labels, log_probs = found.labels.cpu().numpy(), found.log_probs.cpu().numpy()
    _, numbers, cells = parts(found, INPUTS)
    origin, seen = 0, 0
    for index, own in enumerate(INPUTS):
        of_sequence = slice(origin, origin := origin + num_cells(own.num_words))
        places = np.flatnonzero(labels[of_sequence])
        assert numbers[index] == len(places)
        first, last = cell_words(own.num_words)
        columns = first[places], last[places], labels[of_sequence][places], log_probs[of_sequence][places]
        expected = np.stack(columns, axis=1).astype(np.float32)
        np.testing.assert_array_equal(cells[index], expected[: own.num_words])
        seen += len(places)
    assert 0 < seen < len(labels)


@needs_triton
def test_a_table_that_nobody_wants_changes_nothing_else() -> None:
    model = kernel_model(CONFIGS["as shipped"])
    wanted, unwanted = run(model, INPUTS), run(model, INPUTS, with_table=False)
    assert unwanted.table is None
    assert torch.equal(wanted.labels, unwanted.labels) and torch.equal(wanted.log_probs, unwanted.log_probs)
    assert all(
        one.tobytes() == other.tobytes()
        for one, other in zip(parts(wanted, INPUTS)[2], parts(unwanted, INPUTS)[2], strict=True)
    )


@needs_triton
def test_a_sequence_has_the_same_bits_alone_and_in_a_batch() -> None:
    model = kernel_model(CONFIGS["as shipped"])
    state, packed = states_of(model.config, INPUTS)
    exits = TritonExit(model, DEVICE)
    together = exits.run(2, state, packed, with_table=True)
    tables = together.table.split(packed.cell_counts) if together.table is not None else ()
    figures, numbers, cells = parts(together, INPUTS)
    for index, (own, rows) in enumerate(zip(INPUTS, state.split(packed.pieces.lengths), strict=True)):
        alone = exits.run(2, rows.contiguous(), pack([own], DEVICE), with_table=True)
        own_figures, own_numbers, own_cells = parts(alone, [own])
        assert alone.table is not None and torch.equal(alone.table, tables[index])
        assert own_figures[0].tobytes() == figures[index].tobytes() and own_numbers == [numbers[index]]
        assert own_cells[0].tobytes() == cells[index].tobytes()


def device() -> Gpu | StandIn:
    """The GPU where there is one: Triton compiles there, and a compiled kernel cannot read the CPU's memory."""
    if DEVICE.type == "cuda":
        return Gpu(DEVICE)
    return StandIn(lambda model: TritonExit(model, DEVICE), triton_norm.add_norm)


@needs_triton
@pytest.mark.parametrize("bias", [-3.0, 9.0], ids=["few candidates", "more than words"])
def test_the_executor_says_by_kernels_what_the_eager_one_does(bias: float) -> None:
    model = kernel_model(kernel_config(num_layers=1))
    for exit_ in model.exits:
        exit_.get_parameter("bias").fill_(bias)
    inputs = INPUTS[:2]
    executor = CudaExecutor(model, device())  # which fills the step up to 4 sequences of 64 pieces
    readings_of(executor, inputs)
    for found, expected in zip(readings_of(executor, inputs), readings_of(eager(model), inputs), strict=True):
        assert executor.fixed_steps is not None and executor.fixed_steps.graphs.counts.replayed
        table = found.table.cpu()
        torch.testing.assert_close(table, expected.table, rtol=0, atol=0.15)
        own = Reading(table, found.num_words, nested=found.nested)  # the same table, worked out as eager does
        np.testing.assert_allclose(found.summary, own.summary, rtol=1e-4, atol=1e-5)
        assert found.candidates.counts == own.candidates.counts
        np.testing.assert_allclose(found.candidates.cells, own.candidates.cells, atol=1e-4)


@needs_triton
def test_no_step_has_a_kernel_compiled_anew() -> None:
    """What differs from step to step is excepted where Triton would look at it: else a text would wait for seconds."""
    code = """
from service.executors import exit_kernels
for name in ("project", "score", "finish"):
    for one in getattr(exit_kernels, name).params:
        print(one.name, one.do_not_specialize, one.do_not_specialize_on_alignment)
"""
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    rows = [line.split() for line in told.stdout.splitlines()]
    integers = {"first_piece", "last_piece", "word_starts", "cell_starts"}
    counts = {"words", "labels", "buckets", "tiles", "tiles_of_last"}
    assert integers | counts <= {name for name, *_ in rows}
    assert all(is_free == "True" for name, is_free, _ in rows if name in counts)
    assert all(is_free == "True" for name, _, is_free in rows if name in integers)


@needs_triton
@pytest.mark.parametrize("with_gain", [True, False])
@pytest.mark.parametrize("width", [48, 768])
def test_a_residual_and_its_norm_are_what_float64_makes_of_them(width: int, with_gain: bool) -> None:
    norm = torch.nn.LayerNorm(width, eps=1e-12, device=DEVICE, dtype=torch.bfloat16).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    draw = [torch.randn(size, generator=generator).bfloat16().to(DEVICE) for size in (width, width, (5, width))]
    norm.weight.copy_(draw[0])
    norm.bias.copy_(draw[1])
    one, other = draw[2], 3 * draw[2].flip(0) + 1
    found = triton_norm.add_norm(one, other, norm, with_gain=with_gain)
    expected = add_norm(one.double(), other.double(), norm.double(), with_gain=with_gain)
    assert found.dtype == torch.bfloat16
    rtol = 2**-7 if DEVICE.type == "cpu" else 2**-8  # Triton's interpreter cuts off what a GPU rounds
    torch.testing.assert_close(found.double(), expected, rtol=1.001 * rtol, atol=1e-4)
    alone = triton_norm.add_norm(one[1:2], other[1:2], norm.bfloat16(), with_gain=with_gain)
    assert torch.equal(alone, found[1:2])


def with_exits(**fields: int | str) -> ModelConfig:
    return kernel_config(exits=replace(ExitConfig(rank=32), **fields))


def test_exits_that_have_no_kernels_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.executors.triton_exit.find_spec", lambda _: object())
    assert reason_against(kernel_config()) is None
    assert reason_against(with_exits(form="low_rank", reach=0)) == "its exits are of form low_rank, not contextual"
    assert reason_against(with_exits(rank=48)) == "its exits.rank is 48, not one of (16, 32, 64)"
    assert "prototypes" in str(reason_against(replace(kernel_config(), prototypes=True)))
    monkeypatch.setattr("service.executors.triton_exit.find_spec", lambda _: None)
    assert reason_against(kernel_config()) == "Triton is not installed"


@needs_triton
def test_every_kernel_compiles_for_an_h100_without_spilling_registers() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    command = [sys.executable, "-m", "benchmarks.compile_exit", "--capability", "90"]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300).stdout
    rows = [json.loads(line) for line in told.splitlines()]
    assert [row["kernel"] for row in rows] == [
        *("project", "score", "score with its table", "finish", "add_norm", "add_norm without its gain"),
        *("attend", "attend where words are halted"),
    ]
    assert [row["spill_bytes"] for row in rows] == [0] * 8
