"""Parses `train`, and writes the command line that a model's card shows; parses `gather`."""

from __future__ import annotations

import argparse
import logging
import shlex
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from service.commands import Commands
from service.errors import BadInput


def add_to(commands: Commands) -> None:
    """Add both commands."""
    _add_gather(commands)
    parser = commands.add_parser("train", help="train a model from a recipe, an encoder checkpoint and a data folder")
    parser.add_argument("recipe", type=Path, help="a TOML file, or the name of one in service/training/recipes")
    parser.add_argument(
        "--encoder",
        type=Path,
        required=True,
        help="folder to start from: a Transformers checkpoint, or a model of ours",
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that the recipe's files lie in")
    parser.add_argument("--output", type=Path, required=True, help="folder of the run; the model is written to model/")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="override a recipe field (TOML)"
    )
    parser.add_argument(
        "--teacher",
        type=Path,
        action="append",
        default=[],
        help="a finished model, or a token classifier of Transformers, to distil from; several: their mean",
    )
    parser.add_argument("--max-sentences", type=int, help="use only the first sentences of every file")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.set_defaults(run=_train)


def _train(options: argparse.Namespace) -> None:
    from service.models.device import choose_device, use_threads
    from service.training.loop import train
    from service.training.recipe import find_recipe, read_recipe

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    overrides = overrides_of(options.set)
    use_threads(0)
    folder = train(
        read_recipe(find_recipe(options.recipe), overrides),
        encoder=options.encoder,
        data=options.data,
        output=options.output,
        device=choose_device(options.device),
        command=_command(options),
        max_sentences=options.max_sentences,
        teachers=options.teacher,
    )
    print(folder)


def _add_gather(commands: Commands) -> None:
    parser = commands.add_parser("gather", help="write texts of all corpora of a recipe into one file, to calibrate on")
    parser.add_argument("recipe", type=Path, help="a TOML file, or the name of one in service/training/recipes")
    parser.add_argument("--data", type=Path, required=True, help="folder that the recipe's files lie in")
    parser.add_argument("--split", choices=("train", "dev", "test"), default="dev", help="which files (dev)")
    parser.add_argument("--most", type=int, default=300, help="the most texts of each corpus (300)")
    parser.add_argument("--output", type=Path, required=True, help="the file to write (.jsonl)")
    parser.set_defaults(run=_gather)


def _gather(options: argparse.Namespace) -> None:
    from service.training.gather import gather
    from service.training.recipe import find_recipe, read_recipe

    if options.most < 1 or options.output.suffix != ".jsonl":
        raise BadInput("--most is 1 or more, and --output a file whose name ends in .jsonl")
    print(gather(read_recipe(find_recipe(options.recipe)), options.data, options.split, options.most, options.output))


def overrides_of(assignments: Sequence[str]) -> dict[str, Any]:
    """Return the recipe fields that `--set` gives. Raises BadInput for what is no TOML."""
    try:
        return tomllib.loads("\n".join(assignments))
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"--set {assignments}: {error}; expected FIELD=VALUE as in TOML, text in quotes") from error


def _command(options: argparse.Namespace) -> str:
    """Write the command with every option that changes the model, and without the folders of this machine."""
    changes = "".join(f" --set {shlex.quote(change)}" for change in options.set)
    if options.max_sentences is not None:
        changes += f" --max-sentences {options.max_sentences}"
    changes += " --teacher TEACHER" * len(options.teacher)
    return f"python -m service train {options.recipe.stem}{changes} --encoder ENCODER --data DATA --output RUN"
