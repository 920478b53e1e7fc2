"""Writes a model's card: what it is, what it was trained on and may be used for, its figures and its limits."""

from __future__ import annotations

from collections.abc import Sequence

from service.models.config import ModelConfig
from service.spans.score import Score
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
    test: Sequence[Score],
    lost: int,
) -> str:
    """Return the card as Markdown; all its figures come from this run.

    command     the command line of the run
    best_epoch  from 1
    dev_f1      F1 of every exit on the dev set, as a fraction
    test        scores of every exit on the test set
    lost        how many gold entities of the test set no exit can find, since splitting cuts them
    """
    exit_form = config.exits.form if config.exits.form == "full" else f"{config.exits.form}, rank {config.exits.rank}"
    if config.exits.reach:
        exit_form += f", {config.exits.reach} words to either side"
    kind = "nested" if config.nested else "flat"
    rows = [
        f"| {layer} | {100 * dev:.2f} | {100 * of_test.f1:.2f} | {100 * of_test.precision:.2f} "
        f"| {100 * of_test.recall:.2f} |"
        for layer, (dev, of_test) in enumerate(zip(dev_f1, test, strict=True), 1)
    ]
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

## How it was made

    {command}

Seed {recipe.seed}, best epoch {best_epoch} of at most {recipe.epochs}, chosen by {_chosen_by(recipe)}.

## Figures

Strict span and label micro-F1 x 100, on texts split into sentences as the server splits them;
{lost} of {test[0].gold} gold entities of the test set are lost by that and count as missed.

| exit | dev F1 | test F1 | test precision | test recall |
|---|---|---|---|---|
{chr(10).join(rows)}

## Limits

It knows the language, the kind of text and the labels it was trained on; elsewhere its figures do not hold. A sentence
of more than {config.text.window_pieces} pieces is read in overlapping windows, and an entity longer than the overlap
({config.text.overlap_pieces} pieces) can be lost there.
"""
