"""Exits by word beside exits by sentence: F1 against measured time, by words a text and texts a batch.

    python -m benchmarks.word_level MODEL[,MODEL...] DATA/conll2003/test.conll --json FILE

Neighbouring sentences are joined to texts of 16, 32, 64 and 128 words, which are not split again. All sequences of a
batch start together and run as in an engine that has nothing else to do: a sequence that is done leaves, and the others
go on. Policies take turns round by round; the figures are medians. Ratios are to full depth of the same model, on the
same texts.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.engines import add_executor, executor_of, load
from service.assets import assets_of
from service.data.readers import Example, join, read_examples
from service.evaluation.run_policy import evaluate_policy, run_policy
from service.executors.executor import Executor
from service.exits.operating_points import catalog_of
from service.exits.policy import ExitPolicy
from service.models.batches import length_buckets
from service.models.device import available_cores, use_threads
from service.models.store import StoredModel
from service.text.types import SequenceInput

LENGTHS = (16, 32, 64, 128)
BATCHES = (1, 8, 32)
FULLNESS = 0.75  # share of the wanted words that a joined text has at least
TEXTS = {16: 256, 32: 192, 64: 128, 128: 96}  # words -> number of texts that are timed; F1 is of all texts


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of a policy at one length and batch size. F1 is x 100.

    layers   layers run, the mean over words
    seconds  of one pass over the texts, the median of rounds
    """

    model: str
    words: int
    batch: int
    policy: str
    f1: float
    f1_loss: float
    layers: float
    seconds: float
    speedup: float
    spread: tuple[float, float]


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", help="names or folders, separated by commas")
    parser.add_argument("file", type=Path)
    parser.add_argument("--store", type=Path, default=Path("model_store"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--policies", type=json.loads, default=None, help="JSON list, as PATCH /exit-policy takes them")
    parser.add_argument("--json", type=Path, help="write the rows here")
    add_executor(parser)
    options = parser.parse_args()
    examples = read_examples(options.file)
    rows: list[Row] = []
    described: Mapping[str, Any] = {}
    for reference in options.models.split(","):
        stored = load(reference, options.store)
        use_threads(available_cores())
        executor = executor_of(options, stored.model)
        described = executor.describe()
        policies = _policies(stored, options.policies)
        print(f"{stored.reference}, {options.file.name}, {described}")
        for words in LENGTHS:
            rows += _measure(stored, executor, policies, joined(examples, words), words, options.rounds)
        executor.close()
    if options.json:
        names = ",".join(Path(name).name for name in options.models.split(","))
        document = {"command": f"python -m benchmarks.word_level {names} DATA/{options.file.name}", **described}
        document["rows"] = [{name: getattr(row, name) for name in Row.__slots__} for row in rows]
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def joined(examples: Sequence[Example], words: int) -> list[Example]:
    """Return neighbouring sentences joined to texts of at most `words` words, and at least FULLNESS times as many."""
    found, part, count = [], list[Example](), 0
    for example in examples:
        length = len(example.text.split())
        if count + length > words:
            if count >= FULLNESS * words:
                found.append(join(part))
            part, count = [], 0
        if length <= words:
            part.append(example)
            count += length
    return found


def _policies(stored: StoredModel, wanted: Sequence[Mapping[str, Any]] | None) -> dict[str, ExitPolicy]:
    """Return full depth, then the wanted policies, or else a ladder of every strategy that the model supports."""
    catalog = catalog_of(stored.operating_points, assets_of(stored.model))
    if wanted is None:
        wanted = [{"strategy": "budgeted", "layer": layer} for layer in range(1, stored.config.num_layers)]
        wanted = [*wanted, *({"strategy": "sentee", "tau": tau} for tau in (0.05, 0.1, 0.2, 0.4))]
        wanted = [*wanted, *({"strategy": "gated_vote", "tau": t, "gate": g} for t, g in ((0.1, 0.3), (0.2, 0.6)))]
        wanted = [*wanted, *({"strategy": "learned", "tau": tau} for tau in (0.05, 0.1, 0.2))]
        wanted = [*wanted, *({"strategy": "de3", "tau": tau, "weight": 1} for tau in (0.05, 0.1, 0.2))]
        taus = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
        wanted = [*wanted, *({"strategy": "tokee", "tau": t, "window": w} for w in (1, 3, 5) for t in taus)]
        wanted = [*wanted, {"strategy": "hashee"}]
        wanted = [change for change in wanted if change["strategy"] in catalog.strategies]
    found = {"full_depth": catalog.policy({"strategy": "full_depth"})}
    for change in wanted:
        name = " ".join(str(value) for value in change.values())
        found[name] = catalog.policy(change)
    return found


def _measure(
    stored: StoredModel,
    executor: Executor,
    policies: Mapping[str, ExitPolicy],
    texts: Sequence[Example],
    words: int,
    rounds: int,
) -> list[Row]:
    encoder = stored.text_encoder
    quality = {
        name: evaluate_policy(executor, encoder, texts, policy, split=False) for name, policy in policies.items()
    }
    timed = encoder.encode_batch([example.text for example in texts[: TEXTS[words]]], split=False)
    sequences = [sequence for text in timed for sequence in text.sequences]
    rows = []
    full = 100 * quality["full_depth"].micro.f1
    for batch in BATCHES:
        seconds = _time(executor, policies, sequences, batch, rounds)
        of_full = seconds["full_depth"]
        for name in policies:
            run = quality[name]
            f1 = 100 * run.micro.f1
            ratios = [one / other for one, other in zip(of_full, seconds[name], strict=True)]
            row = Row(
                f"{stored.reference} {stored.config.hash or ''}".strip(),
                words,
                batch,
                name,
                round(f1, 2),
                round(full - f1, 2),
                round(float(run.layers.mean()), 3),
                statistics.median(seconds[name]),
                round(statistics.median(ratios), 3),
                (round(min(ratios), 3), round(max(ratios), 3)),
            )
            rows.append(row)
            low, high = row.spread
            print(
                f"{words:4d} words x {batch:2d}  {name:24s} F1 {row.f1:6.2f} ({row.f1_loss:+6.2f})  "
                f"layers {row.layers:5.2f}  {1000 * row.seconds / len(sequences):8.3f} ms a text  "
                f"x {row.speedup:5.2f} ({low:.2f} to {high:.2f})",
                flush=True,
            )
    return rows


def _time(
    executor: Executor,
    policies: Mapping[str, ExitPolicy],
    sequences: Sequence[SequenceInput],
    batch: int,
    rounds: int,
) -> dict[str, list[float]]:
    """Return the seconds for all sequences, by policy and round; a batch has sequences of similar length."""
    order = [index for bucket in length_buckets(sequences, 1) for index in bucket]
    batches = [[sequences[index] for index in order[at : at + batch]] for at in range(0, len(order), batch)]
    found: dict[str, list[float]] = {name: [] for name in policies}
    for turn in range(rounds + 1):
        for name, policy in policies.items():
            started = time.perf_counter()
            for inputs in batches:
                run_policy(executor, policy, inputs)
            executor.wait()
            if turn:  # the first round warms up
                found[name].append(time.perf_counter() - started)
    assert all(math.isfinite(value) for values in found.values() for value in values)
    return found


if __name__ == "__main__":
    main()
