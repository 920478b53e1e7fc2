"""What early exit saves in wall-clock time: full depth, the static cuts and every preset, side by side in one run.

    python -m benchmarks.early_exit_time conll2003-minilm DATA/conll2003/test.conll

Sentences go through the engine one at a time, like those of a single client: the figures contain everything but
tokenising and HTTP. Policies take turns sentence by sentence, so that other work of the machine affects all alike.
"never" is a preset's policy with tau 0, under which no sentence leaves early: it shows what exits cost in vain.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.engines import PolicyInForce, add_executor, draw_texts, executor_of, load, policies_of, start_engine
from service.engine.engine import Engine
from service.engine.sequence import Request
from service.exits.operating_points import PRESETS
from service.exits.policy import ExitPolicy
from service.text.types import EncodedText

ROUNDS = 3


def time_policies(
    engine: Engine, policies: dict[str, ExitPolicy], texts: list[EncodedText], in_force: PolicyInForce
) -> dict[str, list[float]]:
    """Return the seconds of every text under every policy, each the fewest of ROUNDS tries."""
    seconds = {name: [float("inf")] * len(texts) for name in policies}
    for _ in range(ROUNDS):
        for index, text in enumerate(texts):
            for name, policy in policies.items():
                in_force.policy = policy
                request = Request((text,), deadline=float("inf"), submitted=0.0)
                started = time.perf_counter()
                engine.submit(request)
                request.future.result()
                seconds[name][index] = min(seconds[name][index], time.perf_counter() - started)
    return seconds


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("file", type=Path)
    parser.add_argument("--store", type=Path, default=Path("model_store"))
    parser.add_argument("--texts", type=int, default=600, help="how many texts, drawn at random with a fixed seed")
    add_executor(parser)
    parser.add_argument("--json", type=Path, help="write the rows here")
    options = parser.parse_args()
    stored = load(options.model, options.store)
    calibration, policies = policies_of(stored)
    policies |= {f"{preset}, never": replace(policies[preset], tau=0.0) for preset in PRESETS}  # type: ignore[call-arg]
    texts = draw_texts(stored, options.file, options.texts)
    in_force = PolicyInForce(policies["full_depth"])
    executor = executor_of(options, stored.model)
    engine = start_engine(executor, in_force)
    time_policies(engine, policies, texts[:20], in_force)  # warm up
    seconds = time_policies(engine, policies, texts, in_force)
    engine.close()
    total = sum(seconds["full_depth"])
    environment = executor.describe()
    print(f"{stored.reference}, {len(texts)} texts of {options.file.name}, {environment}")
    print(f"{'policy':16s} {'mean ms':>8s} {'p50 ms':>8s} {'p99 ms':>8s} {'speed-up':>9s} {'expected':>9s}")
    rows: list[dict[str, Any]] = []
    for name, policy in policies.items():
        expected = calibration.expected(policy)
        row = {
            "policy": name,
            "mean_ms": 1_000 * statistics.fmean(seconds[name]),
            "median_ms": 1_000 * statistics.median(seconds[name]),
            "p99_ms": 1_000 * sorted(seconds[name])[int(0.99 * len(texts))],
            "speedup": total / sum(seconds[name]),
            "expected_speedup": expected["speedup_latency"] if expected else None,
        }
        rows.append(row)
        told = f"{row['expected_speedup']:9.2f}" if expected else ""
        times = f"{row['mean_ms']:8.3f} {row['median_ms']:8.3f} {row['p99_ms']:8.3f}"
        print(f"{name:16s} {times} {row['speedup']:9.2f} {told}")
    if options.json:
        command = f"python -m benchmarks.early_exit_time {stored.config.name} DATA/{options.file.name}"
        document = {"command": command, "model": stored.reference, **environment, "torch": torch.__version__}
        options.json.write_text(json.dumps({**document, "rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
