"""F1 of every exit of two models on one file, and the difference by paired bootstrap over texts.

    python -m service train conll2003-minilm --set 'exit_form="full"' --encoder ENCODER --data DATA --output runs/full
    python -m benchmarks.compare_exits conll2003-minilm runs/full/model DATA/conll2003/test.conll

Made for the question whether low-rank exits lose anything against the full U of Eq. 1 of VEE-BERT.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from benchmarks.engines import add_executor, executor_of, load
from service.data.readers import read_examples
from service.evaluation.bootstrap import Bootstrap, interval
from service.evaluation.replay import Replayer
from service.evaluation.trace import trace


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("other")
    parser.add_argument("file", type=Path)
    parser.add_argument("--store", type=Path, default=Path("model_store"))
    add_executor(parser)
    options = parser.parse_args()
    examples = read_examples(options.file)
    replayers = []
    for name in (options.model, options.other):
        stored = load(name, options.store)
        executor = executor_of(options, stored.model)
        replayers.append(Replayer(trace(stored, examples, options.file.name, executor)))
        executor.close()
    bootstrap = Bootstrap(len(examples))
    print(f"exit  {options.model:>20s}  {options.other:>20s}  difference (95 %)")
    for layer in range(1, min(replayer.trace.num_layers for replayer in replayers) + 1):
        one, other = (r.at_layers(np.full(len(r.trace.sequences), layer)) for r in replayers)
        low, high = interval(bootstrap.f1(one) - bootstrap.f1(other))
        f1 = 100 * one.micro.f1, 100 * other.micro.f1
        print(f"{layer:4d}  {f1[0]:20.2f}  {f1[1]:20.2f}  {f1[0] - f1[1]:+.2f} ({low:+.2f} to {high:+.2f})")


if __name__ == "__main__":
    main()
