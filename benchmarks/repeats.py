"""What it is worth that equal sentences are computed once, on a stream of queries that repeat themselves.

    python -m benchmarks.repeats general-minilm DATA/open/snips/train.conll

Which query comes next follows Zipf's law: the n-th most frequent of all texts of the file comes with a probability
proportional to 1 / n. 64 requests of one text each wait at a time, straight at the engine. Ways take turns, and the
best of several rounds counts: every text runs; equal texts under way run once; answers are kept in 1 or 16 MB.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import deque
from pathlib import Path
from typing import Any

from benchmarks.engines import PolicyInForce, add_executor, draw_texts, executor_of, load, policies_of, start_engine
from benchmarks.peers import processor
from service.engine.engine import Engine
from service.engine.reuse import AnswerCache, Reuse
from service.engine.sequence import Request
from service.exits.operating_points import PRESETS
from service.text.types import EncodedText

WAYS = {"every text runs": None, "once while under way": 0, "kept in 1 MB": 1_000_000, "kept in 16 MB": 16_000_000}
AT_A_TIME = 64
ROUNDS = 3


def stream(texts: list[EncodedText], queries: int) -> list[EncodedText]:
    """Return so many texts, drawn by Zipf's law with a fixed seed."""
    weights = [1 / place for place in range(1, len(texts) + 1)]
    return random.Random(1).choices(texts, weights, k=queries)


def seconds_for(engine: Engine, queries: list[EncodedText]) -> float:
    """Ask for all of them, some at a time, and return how long it took."""
    started = time.monotonic()
    waiting: deque[Request] = deque()
    for query in queries:
        if len(waiting) == AT_A_TIME:
            waiting.popleft().future.result()
        request = Request((query,), deadline=started + 600, submitted=time.monotonic())
        engine.submit(request)
        waiting.append(request)
    for request in waiting:
        request.future.result()
    return time.monotonic() - started


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("file", type=Path)
    parser.add_argument("--store", type=Path, default=Path("model_store"))
    parser.add_argument("--texts", type=int, default=20_000, help="the most different texts")
    parser.add_argument("--queries", type=int, default=10_000)
    add_executor(parser)
    parser.add_argument("--json", type=Path, help="write the rows here")
    options = parser.parse_args()
    stored = load(options.model, options.store)
    _, policies = policies_of(stored)
    texts = draw_texts(stored, options.file, options.texts)
    queries = stream(texts, options.queries)
    executor = executor_of(options, stored.model)
    in_force, reuse = PolicyInForce(policies["full_depth"]), Reuse()
    engine = start_engine(executor, in_force, reuse)
    best: dict[tuple[str, str], float] = {}
    for _ in range(ROUNDS):
        for policy in ("full_depth", *PRESETS):
            for way, size in WAYS.items():
                in_force.policy = policies[policy]
                reuse.is_on, reuse.cache = size is not None, AnswerCache(size) if size else None
                found = seconds_for(engine, queries)
                best[policy, way] = min(found, best.get((policy, way), found))
    engine.close()
    different = len({id(query) for query in queries})
    environment = {"processor": processor(), **executor.describe()}
    print(f"{stored.reference}, {len(queries)} queries, {different} different, {environment}")
    rows: list[dict[str, Any]] = []
    for (policy, way), seconds in best.items():
        row = {"policy": policy, "way": way, "queries_per_s": len(queries) / seconds}
        row["ratio"] = best[policy, "every text runs"] / seconds
        rows.append(row)
        print(f"{policy:12s} {way:22s} {row['queries_per_s']:8.0f} {row['ratio']:6.2f}")
    if options.json:
        command = f"python -m benchmarks.repeats {stored.config.name} DATA/{options.file.name}"
        document = {"command": command, "different": different, "queries": len(queries), **environment, "rows": rows}
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
