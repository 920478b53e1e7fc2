"""What each augmentation of a recipe, and CoNLL-2003 among its corpora, is worth: short runs, each with one change.

    python -m benchmarks.short_runs RECIPE --encoder ENCODER --data DATA --output runs/short

Every run trains one epoch on the first texts of every corpus and is measured at full depth on texts of the dev files:
the mean F1 of the corpora, of the edited ones among them, and the same texts changed as the augmentations change them.
A run that has been measured is not made again.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.domains import CONLL, MAIN, Policies, honorific_recall, measure, probe_counts, variants
from benchmarks.engines import load
from service.data.corpora import Corpus
from service.data.readers import Example
from service.executors.choose import make_executor
from service.executors.executor import Executor
from service.models.device import available_cores, use_threads
from service.models.store import StoredModel
from service.training.loop import train
from service.training.recipe import Augmentation, Recipe, find_recipe, read_recipe

EDITED = ("wikigold", "redocred", "crossner", "conll2003")  # how the names of corpora of edited text begin
DEV_TEXTS = 200  # of each corpus


def runs(recipe: Recipe) -> dict[str, Recipe]:
    """Return the recipe as it is, without each of its augmentations, and with CoNLL-2003 among its corpora."""
    rates = recipe.augmentation
    names = [f.name for f in fields(Augmentation) if getattr(rates, f.name)]
    without = {f"without {name}": replace(recipe, augmentation=replace(rates, **{name: 0.0})) for name in names}
    return {"as it is": recipe, **without, "with CoNLL-2003": replace(recipe, corpora=(*recipe.corpora, CONLL))}


def shortened(recipe: Recipe) -> Recipe:
    """Return a recipe of one epoch whose run does not read the test files."""
    corpora = tuple(replace(corpus, test=corpus.dev) for corpus in recipe.corpora)
    return replace(recipe, epochs=1, dev_texts=50, corpora=corpora)


def figures(stored: StoredModel, executor: Executor, texts: Mapping[str, Sequence[Example]]) -> dict[str, Any]:
    """Return the figures of one run; F1 and recall x 100."""
    none = Policies({})
    by_corpus = {
        name: measure(stored, executor, none, name, examples, split=True)["all"]["f1"]
        for name, examples in texts.items()
    }
    pooled = [
        replace(example, annotation=replace(example.annotation, labels=MAIN))
        for examples in texts.values()
        for example in examples
        if example.annotation.labels is None or example.annotation.labels >= MAIN
    ]
    changed = {
        name: measure(stored, executor, none, name, examples, split=split)["per_org_loc"]["f1"]
        for name, (examples, split) in variants(pooled).items()
    }
    titles = honorific_recall(stored, executor, none, texts[CONLL.name])
    probes = probe_counts(stored, executor, none)
    found = {
        kind: round(100 * np.mean([r["full depth"] / r["names"] for n, r in probes.items() if n.startswith(kind)]), 1)
        for kind in ("list", "form", "symbol", "clauses")
    }
    return {
        "all corpora": round(float(np.mean([f1 for name, f1 in by_corpus.items() if name != CONLL.name])), 2),
        "edited corpora": round(float(np.mean([f1 for n, f1 in by_corpus.items() if n.startswith(EDITED)])), 2),
        "recall behind titles": round(np.mean([r["full depth"] for n, r in titles.items() if n != "none"]), 2),
        "found in probes": found,
        "changed texts": changed,
        "by corpus": by_corpus,
    }


def dev_texts(corpora: Sequence[Corpus], data: Path) -> dict[str, list[Example]]:
    """Return by corpus some texts of its dev file."""
    read = {corpus.name: corpus.read(data / corpus.dev) for corpus in corpora}
    return {name: random.Random(1).sample(texts, min(len(texts), DEV_TEXTS)) for name, texts in read.items()}


def main() -> None:
    """Parse the command line; train and measure run after run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="name or file of a recipe with several corpora")
    parser.add_argument("--encoder", type=Path, required=True, help="the folder of the pretrained encoder")
    parser.add_argument("--data", type=Path, required=True, help="the folder that the recipe's files lie in")
    parser.add_argument("--output", type=Path, required=True, help="receives a folder a run, and figures.json")
    parser.add_argument("--sentences", type=int, default=400, help="the most texts of each corpus (default: 400)")
    parser.add_argument("--only", help="names of runs, with commas between them; default: all")
    options = parser.parse_args()
    recipe = read_recipe(find_recipe(options.recipe))
    texts = dev_texts((*recipe.corpora, CONLL), options.data)
    asked = runs(recipe)
    if options.only:
        asked = {name: asked[name] for name in options.only.split(",")}
    done = options.output / "figures.json"
    found: dict[str, Any] = json.loads(done.read_text(encoding="utf-8")) if done.is_file() else {}
    for name, changed in asked.items():
        if name in found:
            continue
        use_threads(available_cores())
        folder = train(
            shortened(changed),
            encoder=options.encoder,
            data=options.data,
            output=options.output / name.replace(" ", "_"),
            device=torch.device("cpu"),
            command="benchmarks.short_runs",
            max_sentences=options.sentences,
        )
        stored = load(str(folder), Path("model_store"))
        executor = make_executor("auto", stored.model, threads=available_cores())
        found[name] = figures(stored, executor, texts)
        executor.close()
        print(f"{name:24}", json.dumps(found[name]), flush=True)
        done.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
