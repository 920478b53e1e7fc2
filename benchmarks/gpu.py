"""Measures layers, exits and early exit on a GPU, in one command; without a GPU it says so and measures nothing.

    python -m benchmarks.gpu conll2003-minilm DATA/conll2003/test.conll

First the tests marked `gpu`: does the GPU give the CPU's answers? Next, with executor eager (float32) and with cuda
(bfloat16): a layer and its exit, at MiniLM's and at BERT-base's size with random weights (`benchmarks.exit_cost`); with
the model given, F1 of every exit (`service evaluate`), a burst of texts through the engine under full depth and every
preset (`benchmarks.burst`) and one text at a time (`benchmarks.early_exit_time`).

None of it has been run yet, and executor cuda has no CUDA graphs, which would save the launches of a layer's ten or so
kernels. Graphs would need: the rows of a step, its number of sequences and its longest sequence rounded up to buckets;
a last, unused sequence that owns the rows in between; states and boundaries copied to fixed addresses; one captured
graph per layer and bucket, made at the start. Exits also depend on words and cells, and would come after the layers.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import torch

EXECUTORS = ("eager", "cuda")


def main() -> None:
    """Run the tests and the benchmarks; exit with 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    given = [options.model, str(options.file)]
    commands = [
        ["pytest", "-m", "gpu", "-q"],
        *(
            [*command, "--executor", executor]
            for command in (
                ["benchmarks.exit_cost"],
                ["service", "evaluate", *given],
                ["benchmarks.burst", *given],
                ["benchmarks.early_exit_time", *given],
            )
            for executor in EXECUTORS
        ),
    ]
    told = {" ".join(command): [sys.executable, "-m", *command] for command in commands}
    if not torch.cuda.is_available():
        print("no GPU: nothing was measured")
        print(*(f"not run: python -m {name}" for name in told), sep="\n")
        return
    print(torch.cuda.get_device_name(), flush=True)
    failed = []
    for name, command in told.items():
        print(f"\npython -m {name}", flush=True)
        if subprocess.run(command).returncode:
            failed.append(name)
    print("not run: CUDA graphs, which executor cuda does not have")
    sys.exit("failed:\n" + "\n".join(failed) if failed else 0)


if __name__ == "__main__":
    main()
