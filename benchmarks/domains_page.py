"""Makes the page docs/domains.md of the figures of `benchmarks.domains`, models side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from service.exits.operating_points import PRESETS

Figures = Mapping[str, Any]  # of one model, as `benchmarks.domains` writes them

TEXTS = {
    "wnut17": "tweets, forums, comments",
    "tweebank": "tweets",
    "btc": "tweets, without handles",
    "wikigold": "Wikipedia",
    "redocred": "Wikipedia, nationalities as MISC",
    "redocred as published": "Wikipedia, nationalities as LOC",
    "crossner_politics": "Wikipedia, politics",
    "crossner_science": "Wikipedia, science",
    "crossner_music": "Wikipedia, music",
    "crossner_literature": "Wikipedia, literature",
    "crossner_ai": "Wikipedia, computing",
    "idrisi": "tweets in disasters",
    "slurp": "voice commands",
    "snips": "queries and commands",
    "conll2003": "news of 1996",
}
HEAD = """# Kinds of text

What the models are worth on texts of many kinds, and what the presets lose there. The figures are of

    .venv/bin/python -m benchmarks.domains {names} --data DATA --json benchmarks/results/domains.json

on two cores (processor: {processor}), and `make docs` writes this page from them.

Strict F1 x 100 of spans and labels on the test sets, texts split as the server splits them. Of each corpus count the
labels that it annotates; "P+O+L" is persons, organisations and places alone. `general-minilm-research` was trained on
the training sets of all, `general-minilm` on those of all but CoNLL-2003, so **its row of CoNLL-2003 says what to
expect of such a model on texts of a kind that it never saw**; `conll2003-minilm` on CoNLL-2003 alone.
"""


def page(found: Sequence[Figures]) -> str:
    """Return the page as Markdown; the first model is the default, whose presets are shown in full."""
    names = [of_model["model"] for of_model in found]
    first = found[0]
    parts = [
        HEAD.format(names=",".join(name.partition("@")[0] for name in names), processor=first["processor"]),
        "## At full depth\n",
        table(
            ["corpus", "text", *(f"`{name}`, F1, precision, recall" for name in names), *(f"{n} P+O+L" for n in names)],
            (
                [
                    f"`{corpus}`",
                    TEXTS.get(corpus, ""),
                    *(three(of_model["corpora"][corpus]["all"]) for of_model in found),
                    *(f"{of_model['corpora'][corpus]['per_org_loc']['f1']:.1f}" for of_model in found),
                ]
                for corpus in first["corpora"]
            ),
        ),
        "Mean of the open corpora, each as used in training: "
        + ", ".join(f"`{of_model['model']}` {of_model['macro_f1_of_open_corpora']:.1f}" for of_model in found)
        + ".\n",
        "By label, F1:\n",
        table(
            ["corpus", *(f"`{name}`" for name in names)],
            (
                [f"`{corpus}`", *(by_label(of_model["corpora"][corpus]["labels"]) for of_model in found)]
                for corpus in first["corpora"]
            ),
        ),
        "## Under the presets\n",
        f"What `{first['model']}` loses against full depth, with a 95 % interval, and its average exit layer. A\n"
        "promise (0.1, 0.3 and 1.0 F1) counts as broken where the interval lies wholly above it; such are in bold.\n",
        table(
            ["text", *PRESETS],
            (
                [name, *(loss(row["presets"][preset]) for preset in PRESETS)]
                for name, row in (*first["corpora"].items(), *first["variants"].items())
            ),
        ),
        "Promises kept: "
        + "; ".join(f"`{of_model['model']}` {kept(of_model['promises_kept'])}" for of_model in found)
        + ".\n",
        "## Changed texts\n",
        "Up to 400 texts of each corpus that annotates persons, organisations and places, changed; P+O+L at full\n"
        "depth. Joined texts are read as one sentence.\n",
        table(
            ["texts", *(f"`{name}`" for name in names)],
            (
                [change, *(f"{of_model['variants'][change]['per_org_loc']['f1']:.1f}" for of_model in found)]
                for change in first["variants"]
            ),
        ),
        "## Titles\n",
        "Recall of the persons of CoNLL-2003 with a title put before each, at full depth and at `balanced`:\n",
        table(
            ["title", *(f"`{name}`" for name in names)],
            ([title, *(two(of_model["honorifics"][title]) for of_model in found)] for title in first["honorifics"]),
        ),
        "## Layout and symbols\n",
        "Of names of our own how many are found, at full depth and at `balanced`:\n",
        table(
            ["layout", "names", *(f"`{name}`" for name in names)],
            (
                [probe, str(row["names"]), *(two(of_model["probes"][probe]) for of_model in found)]
                for probe, row in first["probes"].items()
            ),
        ),
    ]
    return "\n".join(parts)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def three(scores: Mapping[str, float]) -> str:
    """Return F1, precision and recall."""
    return ", ".join(f"{scores[name]:.1f}" for name in ("f1", "precision", "recall"))


def by_label(labels: Mapping[str, Mapping[str, float]]) -> str:
    """Return the F1 of every label that has gold entities."""
    return ", ".join(f"{label} {scores['f1']:.1f}" for label, scores in labels.items() if scores["gold"])


def loss(row: Mapping[str, Any]) -> str:
    """Return what a preset loses, its interval and its average exit layer."""
    told = f"{row['f1_loss']:.2f} [{row['interval'][0]:.2f}, {row['interval'][1]:.2f}], {row['average_exit_layer']:.2f}"
    return told if row["kept"] else f"**{told}**"


def kept(counts: Mapping[str, str]) -> str:
    """Return how many promises each preset kept."""
    return ", ".join(f"{preset} {of_preset}" for preset, of_preset in counts.items())


def two(row: Mapping[str, float]) -> str:
    """Return a figure at full depth and at `balanced`."""
    return f"{row['full depth']:g}, {row['balanced']:g}"
