"""Does a sequence's answer depend on its batch? Runs every sequence alone, and in random batches until 100,000 ran.

    python -m benchmarks.batch_invariance conll2003-minilm DATA/conll2003/test.conll

It compares the exit layer and the entities under the preset, and the exact numbers that policies see at every exit;
with `--executor eager`, those of PyTorch. It prints how many sequences differ, and exits with 1 if any does.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.engines import add_executor, executor_of, load, policies_of
from service.data.readers import read_examples
from service.evaluation.evaluate import encode_examples
from service.executors.executor import Executor
from service.exits.parameters import Evidence
from service.exits.policy import ExitPolicy
from service.exits.reading import Reading
from service.text.types import SequenceInput

Outcome = tuple[int, tuple[object, ...], bytes]  # exit layer, entities, every number that policies see


def run(executor: Executor, sequences: Sequence[SequenceInput], policy: ExitPolicy) -> list[Outcome]:
    """Run all sequences to full depth, in one step per layer; return what each answers under `policy`."""
    num_layers = executor.config.num_layers
    states = [None] * len(sequences)
    readings: list[Reading] = []
    histories: list[list[Evidence]] = [[] for _ in sequences]
    outcomes: list[Outcome | None] = [None] * len(sequences)
    seen = [b""] * len(sequences)
    for layer in range(1, num_layers + 1):
        states, reading = executor.run_layer(layer, sequences, states, with_table=policy.compares_tables)
        if reading is None:
            raise RuntimeError("no exit was run")
        readings.append(reading)
        evidence = policy.evidence(readings).tolist()
        for index in range(len(sequences)):
            histories[index].append(tuple(evidence[index]))
            seen[index] += reading.summary[index].tobytes()
            if outcomes[index] is None and policy.decide(histories[index], num_layers) is not None:
                outcomes[index] = (layer, tuple(reading.spans[index]), seen[index])
    return [outcome for outcome in outcomes if outcome is not None]


def main() -> None:
    """Measure and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("file", type=Path)
    parser.add_argument("--store", type=Path, default=Path("model_store"))
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--sequences", type=int, default=100_000, help="how many to compare, drawn again and again")
    parser.add_argument("--step-pieces", type=int, default=1_024, help="the largest random batch")
    add_executor(parser)
    parser.add_argument("--json", type=Path, help="write the counts here")
    options = parser.parse_args()
    stored = load(options.model, options.store)
    executor = executor_of(options, stored.model)
    policy = policies_of(stored)[1][options.preset]
    texts = encode_examples(stored.text_encoder, read_examples(options.file))
    sequences = [sequence for text in texts for sequence in text.sequences]
    alone = [run(executor, [sequence], policy)[0] for sequence in sequences]
    draw = random.Random(0)
    compared = flips = other_entities = other_bits = 0
    while compared < options.sequences:
        order = draw.sample(range(len(sequences)), len(sequences))
        while order:
            budget, batch = draw.randint(1, options.step_pieces), [order.pop()]
            while order and sum(sequences[i].num_pieces for i in (*batch, order[-1])) <= budget:
                batch.append(order.pop())
            for index, found in zip(batch, run(executor, [sequences[i] for i in batch], policy), strict=True):
                flips += found[0] != alone[index][0]
                other_entities += found[:2] != alone[index][:2]
                other_bits += found != alone[index]
            compared += len(batch)
    counts = {"compared": compared, "exit_layer": flips, "entities_or_layer": other_entities, "any_bit": other_bits}
    print(f"{stored.reference}, {executor.describe()}, {policy.to_json()}: {counts}")
    if options.json:
        command = f"python -m benchmarks.batch_invariance {stored.config.name} DATA/{options.file.name}"
        document = {"command": command, "model": stored.reference, **executor.describe(), **counts}
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    sys.exit(flips > 0 or other_entities > 0)


if __name__ == "__main__":
    main()
