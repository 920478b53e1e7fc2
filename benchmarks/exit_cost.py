"""What an exit and its vote cost, as a share of the layer before it, side by side in one run.

    python -m benchmarks.exit_cost

Models have random weights and the shape of MiniLM (d = 384) or BERT-base (d = 768). Every piece is a word, which is the
most work for an exit. A share is (layer, exit and evidence) / (layer alone) - 1, each the median of many tries that
take turns. Evidence is what the policy looks at after layer 2; it includes decoding if the policy decodes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from benchmarks.engines import add_executor, executor_of
from service.executors.executor import Executor
from service.exits.policies.gated_vote import GatedVote
from service.exits.policies.learned import FEATURES, ExitRule, Learned
from service.exits.policies.vee import Vee
from service.exits.policy import ExitPolicy
from service.models.biaffine import BiaffineExit
from service.models.config import EncoderConfig, ExitConfig, ModelConfig
from service.models.multi_exit import MultiExitModel
from service.text.types import SequenceInput

TRIES = 400
WIDTHS = {384: 12, 768: 12}  # width -> attention heads
VOCABULARY = 1_000
NUM_LAYERS = 3


def random_model(width: int, num_labels: int, num_layers: int = NUM_LAYERS) -> MultiExitModel:
    """Return a model of this width and `num_labels` table labels, label 0 included, with exits like shipped models'."""
    torch.manual_seed(0)
    encoder = EncoderConfig("bert", VOCABULARY, width, width, num_layers, WIDTHS[width], 4 * width, 512)
    labels = tuple(f"L{index}" for index in range(num_labels - 1))
    model = MultiExitModel(ModelConfig("random", "1", labels, False, encoder, ExitConfig()))
    for head in model.exits:
        torch.nn.init.constant_(
            cast("BiaffineExit", head).bias, -6.0
        )  # few cells are candidates, as in a trained model
    return model.eval()


def random_sequence(length: int) -> SequenceInput:
    """Return a sequence of `length` pieces, in which all but the special pieces are a word each."""
    words = np.arange(1, length - 1)
    pieces = np.random.default_rng(length).integers(0, VOCABULARY, length)
    return SequenceInput(pieces, np.zeros(length, dtype=np.int64), words, words, words, words + 1, (0, len(words)))


def policies() -> dict[str, ExitPolicy]:
    """Return the policies to compare: the served one, the vote on entities, and the paper's vote."""
    rule = ExitRule(tuple((0.1,) * len(FEATURES) for _ in range(NUM_LAYERS - 1)), (0.0,) * (NUM_LAYERS - 1))
    return {"learned": Learned(rule=rule), "gated_vote": GatedVote(), "vee (mean KL)": Vee()}


def measure(executor: Executor, length: int, batch: int, tries: int = TRIES) -> dict[str, float]:
    """Return the median seconds of layer 2 alone, and of layer 2 with its exit and the evidence of each policy."""
    inputs = [random_sequence(length)] * batch
    states, first = executor.run_layer(1, inputs, [None] * batch)
    if first is None:
        raise RuntimeError("no exit was run")

    def with_policy(policy: ExitPolicy) -> Callable[[], object]:
        policy.evidence([first])

        def run() -> object:
            _, reading = executor.run_layer(2, inputs, states, with_table=policy.compares_tables)
            return policy.evidence([first, reading]) if reading is not None else None

        return run

    steps: dict[str, Callable[[], object]] = {
        "layer": lambda: executor.run_layer(2, inputs, states, with_exit=False),
        "exit": lambda: executor.run_layer(2, inputs, states, with_table=False),
        **{name: with_policy(policy) for name, policy in policies().items()},
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(tries):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            executor.wait()
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(found) for name, found in times.items()}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_executor(parser)
    parser.add_argument("--json", type=Path, help="write the rows here")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    print(
        f"{'d':>4s} {'K':>2s} {'L':>4s} {'batch':>5s} {'layer us':>9s}   share of a layer: exit, exit + evidence of ..."
    )
    for width in WIDTHS:
        for num_labels in (5, 8):
            executor = executor_of(options, random_model(width, num_labels))
            for length, batch in ((14, 1), (32, 1), (128, 1), (32, 8)):
                seconds = measure(executor, length, batch)
                layer = seconds.pop("layer")
                shares = {name: found / layer - 1 for name, found in seconds.items()}
                row = {"width": width, "labels": num_labels, "length": length, "batch": batch, "layer_us": 1e6 * layer}
                rows.append({**row, "shares": shares})
                told = "  ".join(f"{name} {share:.3f}" for name, share in shares.items())
                print(f"{width:4d} {num_labels:2d} {length:4d} {batch:5d} {1e6 * layer:9.1f}   {told}", flush=True)
            environment = executor.describe()
            executor.close()
    if options.json:
        document = {"command": "python -m benchmarks.exit_cost", **environment, "rows": rows}
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
