"""What a model is worth on texts of many kinds: F1, and what each preset loses there; layouts, titles, casing, symbols.

    python -m benchmarks.domains MODEL[,MODEL...] --data DATA [--json FILE]

The corpora are those of a recipe (general-minilm) and CoNLL-2003, each with the labels that it annotates; texts are
split as the server splits them. Then the variants, of the corpora that annotate persons, organisations and places: the
same texts in another casing, without punctuation, with typos, titles before persons, or joined to texts of 64 and 128
words that are not split. Last the probes, of our own names: lists, forms, symbols, clauses without punctuation.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.domain_probes import probes
from benchmarks.engines import add_executor, executor_of, load
from benchmarks.peers import processor
from service.assets import assets_of
from service.data.corpora import Corpus
from service.data.readers import Example, join
from service.evaluation.bootstrap import Bootstrap, interval
from service.evaluation.calibrate import MAX_F1_LOSS
from service.evaluation.replay import Replay, Replayer
from service.evaluation.trace import Trace, trace
from service.executors.executor import Executor
from service.exits.operating_points import PRESETS, Calibration, Preset
from service.exits.policies.full_depth import FullDepth
from service.exits.policy import ExitPolicy
from service.models.store import StoredModel
from service.spans.score import Annotation, Score, keys, score, score_by_label
from service.text.encoder import entities_of_sequences
from service.training import augment
from service.training.augment import Tokens
from service.training.recipe import find_recipe, read_recipe

CONLL = Corpus("conll2003/train.conll", "conll2003/dev.conll", "conll2003/test.conll", name="conll2003")
MAIN = frozenset({"PER", "ORG", "LOC"})
HONORIFICS = ("Mr.", "Dr.", "Prof.", "Judge", "Gov.", "Capt.", "Sgt.", "Rev.")
VARIANT_TEXTS = 400  # of each corpus


@dataclass(frozen=True, slots=True)
class Policies:
    """Holds what is compared: full depth, and every preset of the model."""

    presets: Mapping[Preset, ExitPolicy]

    @classmethod
    def of(cls, stored: StoredModel) -> Policies:
        """Read them from the model's operating points; a model without any has no presets."""
        if stored.operating_points is None:
            return cls({})
        calibration = Calibration.from_json(stored.operating_points, assets_of(stored.model))
        catalog = calibration.catalog(assets_of(stored.model))
        return cls({name: catalog.policy(calibration.choose("preset", name).parameters) for name in PRESETS})


def percent(counts: Score) -> dict[str, float]:
    """Return F1, precision and recall x 100, and how many gold entities there are."""
    ratios = {"f1": counts.f1, "precision": counts.precision, "recall": counts.recall}
    return {**{name: round(100 * value, 2) for name, value in ratios.items()}, "gold": counts.gold}


def at_full_depth(found: Trace, examples: Sequence[Example]) -> dict[str, Any]:
    """Score full depth: all annotated labels, PER, ORG and LOC alone, and each label."""
    micro, main, labels = Score(), Score(), dict[str, Score]()
    spans = iter(found.readings[-1].spans)
    for example, sequences in zip(examples, found.texts, strict=True):
        entities = entities_of_sequences(sequences, [next(spans) for _ in sequences], found.labels, found.nested)
        gold = keys(example.entities)
        answered = example.annotation.counted(keys(entities), gold)
        micro += score(gold, answered)
        main += score({k for k in gold if k[2] in MAIN}, {k for k in answered if k[2] in MAIN})
        for label, counts in score_by_label(gold, answered).items():
            labels[label] = labels.get(label, Score()) + counts
    by_label = {label: percent(counts) for label, counts in sorted(labels.items())}
    return {"all": percent(micro), "per_org_loc": percent(main), "labels": by_label}


def losses(replayer: Replayer, policies: Policies) -> dict[str, Any]:
    """Return what each preset loses against full depth, with a 95 % interval, and its average exit layer."""
    bootstrap = Bootstrap(len(replayer.trace.texts))
    full = replayer.replay(FullDepth())
    of_full = bootstrap.f1(full)

    def row(name: Preset, found: Replay) -> dict[str, Any]:
        low, high = interval(of_full - bootstrap.f1(found))
        return {
            "f1": round(100 * found.micro.f1, 2),
            "f1_loss": round(100 * (full.micro.f1 - found.micro.f1), 2),
            "interval": [round(low, 2), round(high, 2)],
            "average_exit_layer": round(found.average_exit_layer, 3),
            "kept": low <= MAX_F1_LOSS[name],
        }

    return {name: row(name, replayer.replay(policy)) for name, policy in policies.presets.items()}


def measure(
    stored: StoredModel, executor: Executor, policies: Policies, name: str, examples: Sequence[Example], *, split: bool
) -> dict[str, Any]:
    """Return the figures of a model on some texts."""
    known = frozenset(stored.config.labels)
    examples = [_known(example, known) for example in examples]
    found = trace(stored, examples, name, executor, split=split)
    return {"texts": len(examples), **at_full_depth(found, examples), "presets": losses(Replayer(found), policies)}


def _known(example: Example, labels: frozenset[str]) -> Example:
    """Return a text without the gold entities whose label the model does not have."""
    entities = tuple(entity for entity in example.entities if entity.label in labels)
    annotated = example.annotation.labels
    annotation = replace(example.annotation, labels=annotated if annotated is None else annotated & labels)
    return replace(example, entities=entities, annotation=annotation)


Change = Callable[[Tokens, random.Random], Tokens]


def with_honorific(title: str) -> Change:
    """Return a change that puts `title` before every person."""

    def change(tokens: Tokens, _: random.Random) -> Tokens:
        return tokens.edited([(first, first, [title]) for first, _, label in tokens.spans if label == "PER"])

    return change


VARIANTS: Mapping[str, Change] = {
    "as it is": lambda tokens, _: tokens,
    "lower": lambda tokens, _: tokens.respelled(str.lower),
    "upper": lambda tokens, _: tokens.respelled(str.upper),
    "title": lambda tokens, _: tokens.respelled(str.title),
    "no punctuation": lambda tokens, _: augment.without_punctuation(tokens),
    "typos": augment.with_typos,
    "symbols": augment.with_symbols,
    "mark-up": augment.with_marks,
}


def variants(examples: Sequence[Example]) -> dict[str, tuple[list[Example], bool]]:
    """Return by name changed texts, and whether they are split."""
    tokens = [Tokens.of(example) for example in examples]
    changed: dict[str, tuple[list[Example], bool]] = {}
    for name, change in VARIANTS.items():
        draw = random.Random(1)
        changed[name] = [replace(change(t, draw), labels=t.labels).example() for t in tokens], True
    for words in (64, 128):
        changed[f"joined to {words} words"] = _joined(examples, words), False
    return changed


def _joined(examples: Sequence[Example], words: int) -> list[Example]:
    parts: list[list[Example]] = [[]]
    for example in examples:
        if parts[-1] and sum(len(one.text.split()) for one in parts[-1]) + len(example.text.split()) > words:
            parts.append([])
        parts[-1].append(example)
    return [join(part) for part in parts]


def honorific_recall(
    stored: StoredModel, executor: Executor, policies: Policies, examples: Sequence[Example]
) -> dict[str, Any]:
    """Return the recall x 100 of persons as they stand, and behind each title, at full depth and under the presets."""
    with_person = [Tokens.of(e) for e in examples if any(entity.label == "PER" for entity in e.entities)]
    only = Annotation(frozenset({"PER"}))
    rows = {}
    for title in ("", *HONORIFICS):
        changed = [with_honorific(title)(t, random.Random(1)) if title else t for t in with_person]
        texts = [
            replace(e, entities=tuple(x for x in e.entities if x.label == "PER"), annotation=only)
            for e in (t.example() for t in changed)
        ]
        replayer = Replayer(trace(stored, texts, title or "none", executor))
        asked: dict[str, ExitPolicy] = {"full depth": FullDepth(), **{str(k): v for k, v in policies.presets.items()}}
        rows[title or "none"] = {
            name: round(100 * replayer.replay(policy).micro.recall, 2) for name, policy in asked.items()
        }
    return rows


def probe_counts(stored: StoredModel, executor: Executor, policies: Policies) -> dict[str, Any]:
    """Return for every probe how many of its names are found, with their bounds and label, at full depth and preset."""
    rows = {}
    for name, texts in probes().items():
        replayer = Replayer(trace(stored, texts, name, executor))
        asked: dict[str, ExitPolicy] = {"full depth": FullDepth(), **{str(k): v for k, v in policies.presets.items()}}
        found = {which: replayer.replay(policy).micro for which, policy in asked.items()}
        rows[name] = {
            "names": found["full depth"].gold,
            **{which: counts.correct for which, counts in found.items()},
            "wrong at full depth": found["full depth"].found - found["full depth"].correct,
        }
    return rows


def study(stored: StoredModel, executor: Executor, corpora: Sequence[Corpus], data: Path) -> dict[str, Any]:
    """Return all figures of one model."""
    policies = Policies.of(stored)
    tests = {corpus.name: corpus.read(data / corpus.test) for corpus in corpora}
    figures: dict[str, Any] = {"model": stored.reference, "processor": processor(), "corpora": {}, "variants": {}}
    for name, examples in tests.items():
        figures["corpora"][name] = measure(stored, executor, policies, name, examples, split=True)
        print(_row(name, figures["corpora"][name]), flush=True)
    pooled = [
        example
        for examples in tests.values()
        for example in random.Random(1).sample(examples, min(len(examples), VARIANT_TEXTS))
        if example.annotation.labels is None or example.annotation.labels >= MAIN
    ]
    everything = frozenset(stored.config.labels)
    for whole in (everything, MAIN):  # texts are joined with those of the same annotation
        group = [
            replace(example, annotation=replace(example.annotation, labels=whole))
            for example in pooled
            if (example.annotation.labels or everything) == whole
        ]
        for name, (texts, split) in variants(group).items() if group else ():
            key = f"{name}, {'all labels' if whole != MAIN else 'PER ORG LOC'}"
            figures["variants"][key] = measure(stored, executor, policies, name, texts, split=split)
            print(_row(key, figures["variants"][key]), flush=True)
    figures["honorifics"] = honorific_recall(stored, executor, policies, tests["conll2003"])
    figures["probes"] = probe_counts(stored, executor, policies)
    for kind in ("honorifics", "probes"):
        for name, row in figures[kind].items():
            print(f"{kind} {name!r}: {row}")
    of_open = [
        row["all"]["f1"] for name, row in figures["corpora"].items() if name != CONLL.name and "published" not in name
    ]
    figures["macro_f1_of_open_corpora"] = round(float(np.mean(of_open)), 2)
    rows = [*figures["corpora"].values(), *figures["variants"].values()]
    figures["promises_kept"] = {
        name: f"{sum(row['presets'][name]['kept'] for row in rows)} of {len(rows)}" for name in policies.presets
    }
    print(f"macro F1 of the open corpora {figures['macro_f1_of_open_corpora']}, kept {figures['promises_kept']}")
    return figures


def _row(name: str, row: Mapping[str, Any]) -> str:
    presets = "  ".join(
        f"{preset} -{of['f1_loss']:.2f} [{of['interval'][0]}, {of['interval'][1]}] L{of['average_exit_layer']:.2f}"
        + ("" if of["kept"] else " BROKEN")
        for preset, of in row["presets"].items()
    )
    everything, main = row["all"], row["per_org_loc"]
    return f"{name:32} F1 {everything['f1']:6.2f}  P+O+L {main['f1']:6.2f}  {presets}"


def main() -> None:
    """Parse the command line, measure, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", help="names in the store, or folders, with commas between them")
    parser.add_argument("--data", type=Path, required=True, help="the folder that the recipe's files lie in")
    parser.add_argument("--recipe", type=Path, default=Path("general-minilm"), help="whose corpora are measured")
    parser.add_argument("--store", type=Path, default=Path("model_store"), help="the model store")
    parser.add_argument("--json", type=Path, help="write all figures here")
    add_executor(parser)
    options = parser.parse_args()
    corpora = [*read_recipe(find_recipe(options.recipe)).sources, CONLL]
    fixed = [corpus for corpus in corpora if corpus.fixed_labels]
    corpora += [replace(corpus, name=f"{corpus.name} as published", fixed_labels={}) for corpus in fixed]
    found = []
    for reference in options.models.split(","):
        stored = load(reference, options.store)
        executor = executor_of(options, stored.model)
        print(f"{stored.reference} ({executor.describe()})")
        found.append(study(stored, executor, corpora, options.data))
        executor.close()
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
