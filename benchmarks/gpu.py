"""Layers, exits and early exit on a GPU, one command; where there is no GPU it says so and measures nothing.

    python -m benchmarks.gpu conll2003-minilm DATA/conll2003/test.conll

First a layer and its exit, at MiniLM's and at BERT-base's size with random weights (`benchmarks.exit_cost`); then, with
the model given, a burst of texts through the engine under full depth and every preset (`benchmarks.burst`) and one text
at a time (`benchmarks.early_exit_time`). The tests marked `gpu` check beside it that the GPU gives the CPU's answers.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import torch


def main() -> None:
    """Run the benchmarks and the tests; exit with 1 where one fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no GPU: nothing was measured")
        return
    print(torch.cuda.get_device_name(), flush=True)
    given = [options.model, str(options.file)]
    commands = (
        ["pytest", "-m", "gpu", "-q"],
        ["benchmarks.exit_cost"],
        ["benchmarks.burst", *given],
        ["benchmarks.early_exit_time", *given],
    )
    failed = [command for command in commands if subprocess.run([sys.executable, "-m", *command]).returncode]
    sys.exit(f"failed: {failed}" if failed else 0)


if __name__ == "__main__":
    main()
