"""A burst: many texts at once, under full depth and under every preset, side by side in one run.

    python -m benchmarks.burst conll2003-minilm DATA/conll2003/test.conll

All texts are submitted to the engine at the same moment, each as a request of its own; the figures do not contain
tokenising and HTTP. Policies take turns, and the best of several rounds counts. "bound" is the share of the time in
which layers and their exits ran: the throughput divided by that of an engine that costs nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.engines import PolicyInForce, add_executor, draw_texts, executor_of, load, policies_of, start_engine
from benchmarks.watched import Watched
from service.engine.engine import Engine
from service.engine.sequence import Request
from service.exits.operating_points import PRESETS
from service.text.types import EncodedText

ROUNDS = 5


def burst(engine: Engine, texts: list[EncodedText]) -> list[float]:
    """Submit all texts at once; return the seconds until each answer, sorted."""
    started = time.monotonic()
    requests = []
    for index, text in enumerate(texts):
        request = Request((text,), deadline=started + 600 + 1e-6 * index, submitted=started)
        engine.submit(request)
        requests.append(request)
    for request in requests:
        request.future.result()
    return sorted(request.finished - started for request in requests)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("file", type=Path)
    parser.add_argument("--store", type=Path, default=Path("model_store"))
    parser.add_argument("--texts", type=int, default=800, help="how many texts, drawn at random with a fixed seed")
    add_executor(parser)
    parser.add_argument("--json", type=Path, help="write the rows here")
    options = parser.parse_args()
    stored = load(options.model, options.store)
    _, policies = policies_of(stored)
    names = ("full_depth", *PRESETS)
    texts = draw_texts(stored, options.file, options.texts)
    executor = Watched(executor_of(options, stored.model))
    in_force = PolicyInForce(policies["full_depth"])
    engine = start_engine(executor, in_force)
    latencies: dict[str, list[float]] = {}
    busy_s: dict[str, float] = {}
    for _ in range(ROUNDS):
        for name in names:
            in_force.policy, executor.busy_s = policies[name], 0.0
            found = burst(engine, texts)
            if name not in latencies or found[-1] < latencies[name][-1]:
                latencies[name], busy_s[name] = found, executor.busy_s
    engine.close()
    environment = executor.describe()
    print(f"{stored.reference}, {len(texts)} texts of {options.file.name}, {environment}")
    print(f"{'policy':12s} {'texts/s':>8s} {'ratio':>6s} {'p50 ms':>8s} {'p99 ms':>8s} {'bound':>6s}")
    rows: list[dict[str, Any]] = []
    for name, seconds in latencies.items():
        row = {
            "policy": name,
            "texts_per_s": len(texts) / seconds[-1],
            "ratio": latencies["full_depth"][-1] / seconds[-1],
            "p50_ms": 1_000 * seconds[len(seconds) // 2],
            "p99_ms": 1_000 * seconds[int(0.99 * len(seconds))],
            "bound": busy_s[name] / seconds[-1],
        }
        rows.append(row)
        figures = f"{row['texts_per_s']:8.0f} {row['ratio']:6.2f} {row['p50_ms']:8.0f} {row['p99_ms']:8.0f}"
        print(f"{name:12s} {figures} {row['bound']:6.2f}")
    if options.json:
        command = f"python -m benchmarks.burst {stored.config.name} DATA/{options.file.name}"
        document = {"command": command, "model": stored.reference, **environment, "torch": torch.__version__}
        options.json.write_text(json.dumps({**document, "rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
