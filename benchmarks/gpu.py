"""Measures early exit on a GPU beside its peers, in one process and within a budget, the most important figures first.

    python -m benchmarks.gpu --budget 240 --out results/gpu.jsonl
    python -m benchmarks.gpu --budget 600 --out results/gpu.jsonl conll2003-minilm DATA/conll2003/test.conll
    python -m benchmarks.gpu --budget 60 --rehearse

Weights are random, of MiniLM's size (6 layers of 384) and BERT-base's (12 of 768), so no model is needed; every piece
is a word, which is the most work for an exit. Ours goes through the engine, from a request to decoded entities: at full
depth, and with everybody leaving after layer 2 by a learned rule that is made to say so. The peers are a token
classifier of Transformers in bfloat16 with SDPA: as it is, in a CUDA graph, and compiled with mode reduce-overhead. All
copy what they are asked to the device, and what they find back. Times are medians.

After the two shapes that matter most, one peer is compiled, and PyTorch's profiler looks at ours kernel by kernel; then
come the other shapes, layers and exits alone, a trained model if one is named, the other compiled peers, and the tests
that need a GPU. Of the CUDA graphs it tells how often a step was replayed, what recording them took, and how much
memory of the card is gone. A result is a line of
JSON, written as soon as it is known; what fails is a line with its error, and the next goes on; what the budget has no
room for is a line that says "not run". Without a GPU nothing is measured; `--rehearse` goes through it on a CPU with
tiny models: its times say nothing, and a CUDA graph fails there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO, cast

import numpy as np
import torch

from benchmarks.engines import PolicyInForce, draw_texts, load, policies_of, start_engine
from benchmarks.exit_cost import VOCABULARY, measure, random_model, random_sequence
from benchmarks.gpu_kernels import kernel_by_kernel
from service.engine.engine import Engine
from service.engine.sequence import Request
from service.executors.choose import make_executor
from service.executors.cuda import CudaExecutor
from service.executors.executor import Executor
from service.exits.operating_points import PRESETS
from service.exits.policies.full_depth import FullDepth
from service.exits.policies.learned import FEATURES, LARGEST_LOG_WORTH, ExitRule, Learned
from service.models.multi_exit import MultiExitModel
from service.text.types import EncodedText

TESTS = (
    "tests/executors/test_cuda_gpu.py",
    "tests/stepping/test_advance_gpu.py",
    "tests/executors/test_triton_exit.py",
)
PACKAGES = ("torch", "triton", "transformers", "numpy", "tokenizers")
LEAVES_AFTER = 2
STEP_PIECES = 8_192  # the largest batch is one step
LABELS = 5  # label 0 included
TRIES, TRY_S = 100, 2.0  # of a measurement: whichever is reached first
PEERS = ("transformers bf16 sdpa", "the same in a CUDA graph", "torch.compile reduce-overhead")
FIRST_SHAPES = 2  # after which one peer is compiled and kernels are told
EXPECTED_S = {"compile": 45.0, "tests": 60.0, "trained": 60.0}  # that a measurement may take; others: some seconds
USUAL_S = 10.0

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Size:
    """A model's name, layers and width."""

    name: str
    layers: int
    width: int


Shape = tuple[Size, int, int]  # size, texts of a batch, pieces of a text
BASE, MINILM, TINY = Size("base", 12, 768), Size("minilm", 6, 384), Size("tiny", 3, 384)
SHAPES = (  # the most important first: size, batch, pieces
    *((BASE, 1, 32), (BASE, 64, 128), (BASE, 64, 32), (MINILM, 1, 32), (MINILM, 64, 128)),
    *((MINILM, 64, 32), (BASE, 1, 128), (MINILM, 1, 128)),
)


@dataclass(frozen=True, slots=True)
class Measurement:
    """What is measured: its name and shape as a result tells them, and the work, which returns figures."""

    told: Row
    work: Callable[[], Row]
    expected_s: float = USUAL_S


@dataclass(slots=True)
class Setup:
    """Where it runs, and what is made once and used by several measurements."""

    device: torch.device
    executor: str
    models: dict[Size, MultiExitModel] = field(default_factory=dict)
    executors: dict[Size, Executor] = field(default_factory=dict)

    def model_of(self, size: Size) -> MultiExitModel:
        """Return a model of random weights."""
        if size not in self.models:
            self.models[size] = random_model(size.width, LABELS, size.layers)
        return self.models[size]

    def executor_of(self, size: Size) -> Executor:
        """Return the executor of such a model; it takes steps of any size that is measured."""
        if size not in self.executors:
            made = make_executor(self.executor, self.model_of(size), device=self.device.type)
            made.max_step_pieces = STEP_PIECES
            self.executors[size] = made
        return self.executors[size]

    def wait(self) -> None:
        """Return when the device has done all that it was asked for."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def environment(device: torch.device) -> Row:
    """Return the names and versions of everything that times depend on."""
    row: Row = {"python": sys.version.split()[0], "cuda": torch.version.cuda}
    for package in PACKAGES:
        try:
            row[package] = version(package)
        except PackageNotFoundError:
            row[package] = None
    if device.type != "cuda":
        return {"card": None, **row}
    card = torch.cuda.get_device_properties(device)
    query = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        told = f"unknown: {error}"
    memory = card.total_memory // 2**20
    return {"card": card.name, "memory_mib": memory, "driver, clock, power limit": told, **row}


def timed(work: Callable[[], object], wait: Callable[[], None]) -> Row:
    """Return the median time of some work in milliseconds, the fastest, and how many tries there were."""
    for _ in range(3):
        work()
    wait()
    times: list[float] = []
    until = time.perf_counter() + TRY_S
    while len(times) < TRIES and (not times or time.perf_counter() < until):
        started = time.perf_counter()
        work()
        wait()
        times.append(1_000 * (time.perf_counter() - started))
    return {"median_ms": statistics.median(times), "fastest_ms": min(times), "tries": len(times)}


def with_rate(row: Row, batch: int) -> Row:
    """Add the texts a second."""
    return {**row, "texts_per_s": 1_000 * batch / row["median_ms"]}


def leaving_after(layer: int, num_layers: int) -> Learned:
    """Return a learned rule by which everybody leaves after a layer; it is worked out after every exit, as usual."""
    weights = tuple((0.0,) * len(FEATURES) for _ in range(num_layers - 1))
    bias = tuple(-LARGEST_LOG_WORTH if at >= layer else LARGEST_LOG_WORTH for at in range(1, num_layers))
    return Learned(rule=ExitRule(weights, bias))


def ask(engine: Engine, texts: tuple[EncodedText, ...]) -> None:
    """Ask for texts, as one request, and wait for the answer."""
    request = Request(texts, deadline=float("inf"), submitted=time.monotonic())
    engine.submit(request)
    request.future.result()


def through_engine(setup: Setup, size: Size, batch: int, pieces: int) -> Row:
    """Measure texts through the engine, at full depth and with early exit, which take turns by blocks."""
    texts = tuple(EncodedText("", (random_sequence(pieces),)) for _ in range(batch))
    in_force = PolicyInForce(FullDepth())
    executor = setup.executor_of(size)
    engine = start_engine(executor, in_force)
    before = of_graphs(executor)
    try:
        full = with_rate(timed(lambda: ask(engine, texts), setup.wait), batch)
        in_force.policy = leaving_after(LEAVES_AFTER, size.layers)
        early = with_rate(timed(lambda: ask(engine, texts), setup.wait), batch)
    finally:
        engine.close()
    graphs = {name: value - before[name] for name, value in of_graphs(executor).items()}
    return {"full depth": full, f"leaving after layer {LEAVES_AFTER}": early, "graphs": graphs, **executor.describe()}


def of_graphs(executor: Executor) -> dict[str, float]:
    """Return how often steps were replayed, launched and recorded, seconds of recording, and MiB used on the card."""
    if not isinstance(executor, CudaExecutor) or executor.fixed_steps is None:
        return {}
    free, total = torch.cuda.mem_get_info()
    return {**asdict(executor.fixed_steps.graphs.counts), "used_mib": (total - free) / 2**20}


def kernels(setup: Setup, size: Size, batch: int, pieces: int) -> Row:
    """Tell the kernels of texts through the engine at full depth, and of those that leave early."""
    texts = tuple(EncodedText("", (random_sequence(pieces),)) for _ in range(batch))
    in_force = PolicyInForce(FullDepth())
    engine = start_engine(setup.executor_of(size), in_force)
    try:
        full = kernel_by_kernel(lambda: ask(engine, texts), setup.wait)
        in_force.policy = leaving_after(LEAVES_AFTER, size.layers)
        early = kernel_by_kernel(lambda: ask(engine, texts), setup.wait)
    finally:
        engine.close()
    return {"full depth": full, f"leaving after layer {LEAVES_AFTER}": early}


def transformer(setup: Setup, size: Size) -> torch.nn.Module:
    """Return Transformers' token classifier of this size, in bfloat16 with SDPA, as many labels as a tagger's."""
    from transformers import BertConfig, BertForTokenClassification

    config = cast("Any", BertConfig)(
        vocab_size=VOCABULARY,
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=12,
        intermediate_size=4 * size.width,
        num_labels=2 * LABELS - 1,
        attn_implementation="sdpa",
    )
    torch.manual_seed(0)
    model: torch.nn.Module = cast("Any", BertForTokenClassification)(config).eval().to(setup.device, torch.bfloat16)
    return model


@torch.inference_mode()
def peer(setup: Setup, name: str, size: Size, batch: int, pieces: int) -> Row:
    """Measure one of PEERS, from ids on the host to labels there."""
    model = transformer(setup, size)
    ids = torch.from_numpy(np.stack([random_sequence(pieces).piece_ids] * batch))
    if setup.device.type == "cuda":
        ids = ids.pin_memory()
    if name == PEERS[1]:
        run = _in_graph(model, ids, setup)
    else:
        if name == PEERS[2]:
            model = torch.compile(model, mode="reduce-overhead")  # type: ignore[assignment]

        def run() -> object:
            return model(input_ids=ids.to(setup.device, non_blocking=True)).logits.argmax(dim=2).cpu()

    found = with_rate(timed(run, setup.wait), batch)
    if name == PEERS[2]:
        setup.executors.clear()  # it has freed cuBLAS's workspaces, which graphs that were recorded before still use
    return found


def _in_graph(model: torch.nn.Module, ids: torch.Tensor, setup: Setup) -> Callable[[], object]:
    """Capture a model's pass over a batch of this shape; -> what copies ids in, replays, and copies labels out."""
    there = ids.to(setup.device)
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            model(input_ids=there).logits.argmax(dim=2)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        labels = model(input_ids=there).logits.argmax(dim=2)

    def run() -> object:
        there.copy_(ids, non_blocking=True)
        graph.replay()
        return labels.cpu()

    return run


def agreement(setup: Setup, size: Size) -> Row:
    """Compare the first exit's table with that of PyTorch in float32 on the CPU: the largest difference."""
    inputs = [random_sequence(length) for length in (32, 7, 20)]
    tables = []
    reference = make_executor("eager", deepcopy(setup.model_of(size)), device="cpu")
    for executor in (setup.executor_of(size), reference):
        _, reading = executor.run_layer(1, inputs, [None] * len(inputs))
        if reading is None:
            raise RuntimeError("no exit was run")
        tables.append(reading.table.cpu())
    return {"largest difference of a log-probability": float((tables[0] - tables[1]).abs().max())}


def layers_and_exits(setup: Setup, size: Size, batch: int, pieces: int) -> Row:
    """Measure a layer alone, with its exit, and with evidence, step by step from the host; shares are of the layer."""
    seconds = measure(setup.executor_of(size), pieces, batch, tries=50)
    layer = seconds.pop("layer")
    return {"layer_us": 1e6 * layer, "shares": {name: found / layer - 1 for name, found in seconds.items()}}


def trained(setup: Setup, reference: str, file: Path, store: Path) -> Row:
    """Measure a trained model on texts of a file: one at a time and as one batch, at full depth and under presets."""
    stored = load(reference, store)
    _, policies = policies_of(stored)
    texts = tuple(draw_texts(stored, file, 256))
    executor = make_executor(setup.executor, stored.model, device=setup.device.type)
    executor.max_step_pieces = STEP_PIECES
    in_force = PolicyInForce(policies["full_depth"])
    engine = start_engine(executor, in_force)
    row: Row = {}
    try:
        for name in ("full_depth", *PRESETS):
            in_force.policy = policies[name]
            together = with_rate(timed(lambda: ask(engine, texts), setup.wait), len(texts))
            alone = [timed(partial(ask, engine, (text,)), setup.wait)["fastest_ms"] for text in texts[:20]]
            row[name] = {"together": together, "alone, median of texts' fastest ms": statistics.median(alone)}
    finally:
        engine.close()
        executor.close()
    return row


def tests() -> Row:
    """Run the tests that need a GPU, in this process; fails where one fails."""
    import pytest

    code = int(pytest.main(["-q", "-p", "no:cacheprovider", *TESTS]))
    if code:
        raise RuntimeError(f"pytest ended with {code}: see its output")
    return {"tests": "passed"}


def told_of(shape: Shape) -> Row:
    """Return a shape as results tell it."""
    size, batch, pieces = shape
    return {"size": size.name, "batch": batch, "pieces": pieces}


def beside_peers(setup: Setup, shape: Shape) -> Iterator[Measurement]:
    """Yield the engine in a shape, and the peers that need not be compiled."""
    yield Measurement({"what": "engine", **told_of(shape)}, partial(through_engine, setup, *shape))
    for name in PEERS[:2]:
        yield Measurement({"what": name, **told_of(shape)}, partial(peer, setup, name, *shape))


def compiled(setup: Setup, shape: Shape) -> Measurement:
    """Return the peer that is compiled, in a shape."""
    work = partial(peer, setup, PEERS[2], *shape)
    return Measurement({"what": PEERS[2], **told_of(shape)}, work, EXPECTED_S["compile"])


def plan(setup: Setup, options: argparse.Namespace) -> Iterator[Measurement]:
    """Yield all measurements, the most important first."""
    shapes = ((TINY, 1, 16), (TINY, 2, 16)) if options.rehearse else SHAPES
    sizes = list(dict.fromkeys(size for size, _, _ in shapes))
    for size in sizes[:1]:
        yield Measurement({"what": "agreement", "size": size.name}, partial(agreement, setup, size))
    for shape in shapes[:FIRST_SHAPES]:
        yield from beside_peers(setup, shape)
    yield compiled(setup, shapes[0])
    for shape in shapes[:FIRST_SHAPES]:
        yield Measurement({"what": "kernels", **told_of(shape)}, partial(kernels, setup, *shape))
    for shape in shapes[FIRST_SHAPES:]:
        yield from beside_peers(setup, shape)
    for shape in shapes:
        yield Measurement({"what": "layers and exits", **told_of(shape)}, partial(layers_and_exits, setup, *shape))
    if options.model:
        work = partial(trained, setup, options.model, options.file, options.store)
        yield Measurement({"what": "trained", "model": options.model}, work, EXPECTED_S["trained"])
    for shape in shapes[1:]:
        yield compiled(setup, shape)
    if not options.rehearse:
        yield Measurement({"what": "tests"}, tests, EXPECTED_S["tests"])


def carry_out(measurements: Iterator[Measurement], budget_s: float, out: TextIO) -> int:
    """Do measurements as long as there is time, and write a line for each; -> how many failed."""
    started, failed = time.monotonic(), 0
    for one in measurements:
        left = budget_s - (time.monotonic() - started)
        if one.expected_s > left:
            row: Row = {**one.told, "not run": f"{left:.0f} s are left, it may take {one.expected_s:.0f}"}
        else:
            try:
                row = {**one.told, **one.work()}
            except Exception as error:  # whatever it is, it is a result, and the next measurement goes on
                failed += 1
                row = {**one.told, "error": f"{type(error).__name__}: {error}"[:2_000]}
        write(row, out)
    return failed


def write(row: Row, out: TextIO) -> None:
    """Write a result, here and to the file, at once."""
    line = json.dumps(row)
    print(line, flush=True)
    out.write(line + "\n")
    out.flush()


def main(arguments: list[str] | None = None) -> None:
    """Measure and write the results; exit with 1 if a measurement failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="a trained model, measured besides")
    parser.add_argument("file", type=Path, nargs="?", help="its annotated texts")
    parser.add_argument("--store", type=Path, default=Path("model_store"))
    parser.add_argument("--budget", type=float, default=300.0, metavar="SECONDS", help="after which nothing is begun")
    parser.add_argument("--out", type=Path, default=Path("gpu.jsonl"), help="where the lines are added")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, tiny models: to see that it goes through")
    options = parser.parse_args(arguments)
    if options.model and not options.file:
        parser.error("a model is given without a file of annotated texts; give both or neither")
    if not options.rehearse and not torch.cuda.is_available():
        print("no GPU: nothing was measured; --rehearse goes through it on the CPU")
        for one in plan(Setup(torch.device("cuda"), "cuda"), options):
            print("not run:", json.dumps(one.told))
        return
    setup = Setup(torch.device("cpu"), "eager") if options.rehearse else Setup(torch.device("cuda"), "cuda")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("a", encoding="utf-8") as out:
        write({"what": "environment", "rehearsal": options.rehearse, **environment(setup.device)}, out)
        failed = carry_out(plan(setup, options), options.budget, out)
    sys.exit(1 if failed and not options.rehearse else 0)


if __name__ == "__main__":
    main()
