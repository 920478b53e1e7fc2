"""Traces of the corpora whose texts the promise is tried on: made once, and kept in a folder."""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from benchmarks.engines import add_executor
from service.data.corpora import Corpus
from service.errors import DataRefused
from service.evaluation.trace import Trace, load_trace, save_trace, trace
from service.executors.executor import Executor
from service.models.store import StoredModel
from service.training.recipe import find_recipe, read_recipe

RECIPE = Path("general-minilm")  # whose corpora these are, with what their labels mean
CORPORA = (
    "wikigold",
    "redocred",
    "crossner_politics",
    "crossner_science",
    "slurp",
    "snips",
    "wnut17",
    "idrisi",
    "tweebank",
    "btc",
)
MOST_TEXTS = 1_000  # of each test set


def add_traced(parser: argparse.ArgumentParser) -> None:
    """Add the options of a benchmark that traces a model: which one, where data and traces lie, and what runs it."""
    parser.add_argument("model", help="a name in the store, or a folder")
    parser.add_argument("--data", type=Path, required=True, help="the folder that the recipe's files lie in")
    parser.add_argument("--traces", type=Path, required=True, help="a folder to keep the traces in")
    parser.add_argument("--store", type=Path, default=Path("model_store"), help="the model store")
    parser.add_argument("--json", type=Path, help="write all figures here")
    add_executor(parser)


def traces_of(stored: StoredModel, executor: Executor, data: Path, kept: Path) -> dict[str, Trace]:
    """Return a trace of each of CORPORA, by its name; those that `kept` has of these weights are read from there."""
    corpora = {corpus.name: corpus for corpus in read_recipe(find_recipe(RECIPE)).sources}
    return {name: _trace_of(stored, executor, corpora[name], data, kept / f"{name}.safetensors") for name in CORPORA}


def _trace_of(stored: StoredModel, executor: Executor, corpus: Corpus, data: Path, kept: Path) -> Trace:
    try:
        found = load_trace(kept)
        if found.weights_sha256 == stored.weights_sha256:
            return found
    except DataRefused:
        pass  # there is none, or of another format
    examples = corpus.read(data / corpus.test)
    drawn = random.Random(0).sample(examples, min(len(examples), MOST_TEXTS))
    found = trace(stored, drawn, corpus.name, executor)
    save_trace(kept, found)
    print(f"traced {corpus.name}: {len(found.sequences)} sentences", flush=True)
    return found
