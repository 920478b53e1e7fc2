"""Writes a model's card: what it is, what it was trained on and may be used for, its figures and its limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from service.evaluation.evaluate import Evaluation
from service.models.config import ModelConfig
from service.training.recipe import Recipe


def _chosen_by(recipe: Recipe) -> str:
    if recipe.halting:
        return "the mean dev F1 under two settings of tokee"
    return "dev F1" if recipe.hash != "none" else "the mean dev F1 over all exits"


def model_card(
    recipe: Recipe,
    config: ModelConfig,
    command: str,
    best_epoch: int,
    dev_f1: Sequence[float],
    tests: Mapping[str, Evaluation],
) -> str:
    """Return the card as Markdown; all its figures come from this run.

    command     the command line of the run
    best_epoch  from 1
    dev_f1      F1 of every exit on the dev set, as a fraction
    tests       the scores of every exit on the test set of every corpus, by its name
    """
    exit_form = config.exits.form if config.exits.form == "full" else f"{config.exits.form}, rank {config.exits.rank}"
    if config.exits.reach:
        exit_form += f", {config.exits.reach} words to either side"
    kind = "nested" if config.nested else "flat"
    figures = _figures_of_one if len(tests) == 1 else _figures_of_many
    shapes = (
        "Spelling (capitals, digits) reaches it through a word-shape embedding."
        if config.word_shapes
        else "No word shapes."
    )
    return f"""# {config.name}@{config.version}

{kind.capitalize()} named entities ({", ".join(config.labels)}), language `{recipe.language}`.
{config.num_layers} layers of width {config.encoder.hidden_size}, pretrained as {recipe.encoder_name},
a biaffine exit ({exit_form}) after every layer. {shapes}

## Data and what it allows

{recipe.data_notice}
{_credits(recipe)}
## How it was made

    {command}

Seed {recipe.seed}, best epoch {best_epoch} of at most {recipe.epochs}, chosen by {_chosen_by(recipe)}.

## Figures

{figures(dev_f1, tests)}

## Limits

It knows the language, the kind of text and the labels it was trained on; elsewhere its figures do not hold. A sentence
of more than {config.text.window_pieces} pieces is read in overlapping windows, and an entity longer than the overlap
({config.text.overlap_pieces} pieces) can be lost there.
"""


def _credits(recipe: Recipe) -> str:
    """Return a list of the corpora with their sources and licences, empty where the notice says it all."""
    credits_ = [f"- `{corpus.name}`: {corpus.credit}" for corpus in recipe.corpora if corpus.credit]
    return "\n".join(["", *credits_, ""]) if credits_ else ""


def _figures_of_one(dev_f1: Sequence[float], tests: Mapping[str, Evaluation]) -> str:
    (test,) = tests.values()
    rows = [
        f"| {layer} | {100 * dev:.2f} | {100 * of_exit.micro.f1:.2f} | {100 * of_exit.micro.precision:.2f} "
        f"| {100 * of_exit.micro.recall:.2f} |"
        for layer, (dev, of_exit) in enumerate(zip(dev_f1, test.exits, strict=True), 1)
    ]
    return f"""Strict span and label micro-F1 x 100, on texts split into sentences as the server splits them;
{test.lost} of {test.gold} gold entities of the test set are lost by that and count as missed.

| exit | dev F1 | test F1 | test precision | test recall |
|---|---|---|---|---|
{chr(10).join(rows)}"""


def _figures_of_many(dev_f1: Sequence[float], tests: Mapping[str, Evaluation]) -> str:
    depth = len(dev_f1)
    means = [sum(test.f1[exit_] for test in tests.values()) / len(tests) for exit_ in range(depth)]
    heads = " | ".join(f"exit {layer}" for layer in range(1, depth + 1))
    rows = [
        f"| {name} | {test.gold} | {' | '.join(f'{100 * f1:.2f}' for f1 in test.f1)} |" for name, test in tests.items()
    ]
    return f"""Strict span and label micro-F1 x 100 on the test set of each corpus, of the labels that it annotates, on
texts split into sentences as the server splits them; gold entities that are lost by that count as missed.

| corpus | entities | {heads} |
|---|---|{"---|" * depth}
{chr(10).join(rows)}
| mean of the corpora | | {" | ".join(f"{100 * f1:.2f}" for f1 in means)} |
| mean of their dev sets | | {" | ".join(f"{100 * f1:.2f}" for f1 in dev_f1)} |"""
