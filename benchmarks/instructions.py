"""The kernels by all instructions that this processor has, and PyTorch in float32, side by side in one run.

    python -m benchmarks.instructions

First the products of bytes and of floats alone, in thousand million multiplications a second of one thread; then layers
of a model with random weights and the shape of MiniLM (d = 384) or BERT-base (d = 768), in microseconds. In brackets
stands the ratio to the fastest instructions: how many times as long it takes.

Everyone has a process of its own, since a process uses one kind of instructions, and they take turns. In the process of
slower instructions the compiler uses no faster ones either; what is faster is also hidden from PyTorch's process that
stands beside them ("eager as avx2"), where the system can hide it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from benchmarks.exit_cost import random_model, random_sequence
from benchmarks.hidden_instructions import can_hide, hide, restrict_mkl
from benchmarks.peers import processor
from service.errors import BadInput
from service.executors.choose import make_executor
from service.models.device import available_cores, use_threads

TRIES = 60  # of a case in a turn
LABELS = 5
PRODUCTS = {
    "bytes, 384 deep": ("bytes", 384),
    "bytes, 1536 deep": ("bytes", 1536),
    "floats, 32 deep": ("floats", 32),
}
ROWS = 896  # of a product: 64 tiles of the most rows
LAYERS = {
    f"d {width}, {batch} x {length}": (width, length, batch)
    for width in (384, 768)
    for length, batch in ((14, 1), (32, 1), (128, 1), (32, 8))
}
EAGER, EAGER_AS_AVX2 = "eager", "eager as avx2"


@dataclass(frozen=True, slots=True)
class Turn:
    """A case to be measured."""

    name: str
    tries: int = TRIES


def take_turns(name: str, threads: int, pipe: Connection) -> None:
    """Send the median seconds of every turn that comes, until None comes; name: of instructions, or PyTorch's."""
    if name == EAGER_AS_AVX2:
        hide("avx2")
    runs: dict[str, Callable[[], object]] = {}
    pipe.send(None)
    while (turn := pipe.recv()) is not None:
        if turn.name not in runs:
            runs[turn.name] = _run_of(turn.name, name, threads)
        pipe.send(_median_s(runs[turn.name], turn.tries))


def _run_of(case: str, name: str, threads: int) -> Callable[[], object]:
    if case in LAYERS:
        width, length, batch = LAYERS[case]
        is_eager = name.startswith(EAGER)
        use_threads(threads)
        executor = make_executor(
            "eager" if is_eager else "fused",
            random_model(width, LABELS),
            device="cpu",
            threads=threads,
            instructions="auto" if is_eager else name,
        )
        inputs = [random_sequence(length)] * batch
        states, _ = executor.run_layer(1, inputs, [None] * batch, with_exit=False)
        return lambda: executor.run_layer(2, inputs, states, with_exit=False)
    return _product(*PRODUCTS[case], name)


def _product(kind: str, depth: int, name: str) -> Callable[[], object]:
    """Return a run of a product of ROWS rows with the columns of one panel."""
    from service.executors.fused import use_instructions

    use_instructions(name)
    from service.kernels.rows import PANEL, multiply_bytes, multiply_floats

    out = np.zeros((ROWS, PANEL), dtype=np.float32)
    if kind == "floats":
        left, right = np.ones((ROWS, depth), dtype=np.float32), np.ones((depth, PANEL), dtype=np.float32)
        given = (left.ctypes.data, 4 * depth, right.ctypes.data, 4 * PANEL, depth, out.ctypes.data, 4 * PANEL)
        return lambda: (multiply_floats(*given, ROWS, PANEL), left, right, out)
    x, panel = np.full((ROWS, depth), 200, dtype=np.uint8), np.full((depth, PANEL), 50, dtype=np.int8)
    of_rows, of_columns = np.ones((ROWS, 2), dtype=np.float32), np.ones((3, PANEL), dtype=np.float32)
    addresses = x.ctypes.data, of_rows.ctypes.data, panel.ctypes.data, of_columns.ctypes.data, out.ctypes.data
    x_at, rows_at, panel_at, columns_at, out_at = addresses
    return lambda: (
        multiply_bytes(x_at, depth, rows_at, ROWS, depth, panel_at, columns_at, PANEL, out_at, 4 * PANEL),
        *(x, panel, of_rows, of_columns, out),  # which live as long as they are used
    )


def _median_s(run: Callable[[], object], tries: int) -> float:
    run()
    seconds = []
    for _ in range(tries):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


class Competitor:
    """A process that is asked turn by turn."""

    def __init__(self, name: str, threads: int) -> None:
        self.name = name
        if name == EAGER_AS_AVX2:
            restrict_mkl()  # for this process, which is started last
        processes = multiprocessing.get_context("spawn")
        self._pipe, theirs = processes.Pipe()
        self._process = processes.Process(target=take_turns, args=(name, threads, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def wait(self) -> None:
        """Wait until the process is ready. Raises SystemExit if it ended."""
        self._receive()

    def take(self, case: str, tries: int = TRIES) -> float:
        """Return the median seconds of a case."""
        self._pipe.send(Turn(case, tries))
        seconds: float = self._receive()
        return seconds

    def close(self) -> None:
        """End the process."""
        if self._process.is_alive():
            self._pipe.send(None)
        self._process.join()

    def _receive(self) -> float:
        try:
            found: float = self._pipe.recv()
        except EOFError as error:
            raise SystemExit(f"{self.name} ended; what it wrote above says why") from error
        return found


def names_here() -> list[str]:
    """Return the instructions that this processor has and that are faster than PyTorch, then PyTorch itself."""
    from service.kernels.instructions import ALL, find

    found = []
    for one in ALL:
        try:
            found += [find(one.name).name] if one.is_fast else []
        except BadInput:  # this processor lacks them
            continue
    return [*found, EAGER, *([EAGER_AS_AVX2] if can_hide() and "avx2" in found else [])]


def measure(competitors: Sequence[Competitor], case: str, rounds: int) -> dict[str, float]:
    """Return everyone's median seconds over rounds in which they take turns, by name."""
    for competitor in competitors:
        competitor.take(case, tries=1)  # compiles, and warms up
    seconds: dict[str, list[float]] = {competitor.name: [] for competitor in competitors}
    for _ in range(rounds):
        for competitor in competitors:
            seconds[competitor.name].append(competitor.take(case))
    return {name: statistics.median(found) for name, found in seconds.items()}


def main() -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=0, help="of layers; 0: as many as the cgroup's quota allows")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the seconds here")
    options = parser.parse_args()
    threads, device = options.threads or available_cores(), processor()
    rows: dict[str, dict[str, float]] = {}
    with ExitStack() as stack:
        competitors = [stack.enter_context(closing(Competitor(name, threads))) for name in names_here()]
        for competitor in competitors:
            competitor.wait()
        print(f"{device}, {threads} threads for layers\n")
        for case in (*PRODUCTS, *LAYERS):
            kernels = [one for one in competitors if case in LAYERS or not one.name.startswith(EAGER)]
            rows[case] = found = measure(kernels, case, options.rounds)
            best = next(iter(found.values()))
            work = f"{1e6 * best:9.1f} us"
            if case in PRODUCTS:
                work = f"{ROWS * PRODUCTS[case][1] * 32 / best / 1e9:7.1f} G/s"
            print(f"{case:18s} {work}  " + "  ".join(f"{name} {s / best:.2f}" for name, s in found.items()), flush=True)
    if options.json:
        document = {
            "command": "python -m benchmarks.instructions",
            "device": device,
            "threads": threads,
            "seconds": rows,
        }
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
