"""Parses `distil`, which makes a model with exits of a Transformers token classifier, and writes its command line."""

from __future__ import annotations

import argparse
import logging
import shlex
from pathlib import Path

from service.commands import Commands
from service.commands.evaluation import add_executor, executor_of
from service.commands.train import overrides_of
from service.errors import BadInput, DataRefused


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "distil", help="give a Transformers token classifier exits: train a model on its labels for texts of yours"
    )
    parser.add_argument("checkpoint", type=Path, help="folder of a token classifier as Transformers saves it")
    parser.add_argument("--texts", type=Path, required=True, help="texts without labels: .jsonl, .csv or .txt")
    parser.add_argument("--column", default="text", help="of --texts: the field or column of the texts; text")
    parser.add_argument("--output", type=Path, required=True, help="folder of the run; the model is written to model/")
    parser.add_argument(
        "--aggregation-strategy",
        choices=("simple", "first", "average", "max"),
        help="of the teacher's pipeline; first where its tokenizer knows words, else simple",
    )
    parser.add_argument("--data", type=Path, help="annotated data that join: train, dev and test, .conll or .jsonl")
    parser.add_argument("--layers", type=int, default=0, help="keep so many of the teacher's layers, evenly; all")
    parser.add_argument(
        "--words",
        nargs="?",
        const="words",
        choices=("words", "pieces"),
        help="what the rows of the span table are; words, unless these cut too many of the teacher's entities",
    )
    parser.add_argument("--language", default="en", help="of the texts, to split them into sentences; en")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="set a recipe field (TOML)")
    parser.add_argument(
        "--curve", type=_counts, default=(), metavar="N,N", help="train on so many texts, too, for the report"
    )
    parser.add_argument("--batch-size", type=int, default=32, help="texts that the teacher labels at a time; 32")
    add_executor(parser)
    parser.set_defaults(run=_distil)


def _counts(listed: str) -> tuple[int, ...]:
    return tuple(int(count.replace("_", "")) for count in listed.split(","))


def _distil(options: argparse.Namespace) -> None:
    from service.distillation.distil import Wishes, distil
    from service.models.device import choose_device, use_threads

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.layers < 0 or options.batch_size < 1 or min(options.curve, default=1) < 1:
        raise BadInput("--layers is 0 or more, --batch-size and the numbers of --curve 1 or more")
    use_threads(options.threads)
    wishes = Wishes(
        strategy=options.aggregation_strategy,
        batch_size=options.batch_size,
        gold=options.data,
        layers=options.layers,
        table_unit=options.words,
        language=options.language,
        overrides=overrides_of(options.set),
        curve=options.curve,
        device=choose_device(options.device),
        executor=executor_of(options),
        command=_command(options),
    )
    report = distil(options.checkpoint, _texts(options.texts, options.column), options.output, wishes)
    print(report.to_markdown())
    print(options.output / "model")


def _texts(path: Path, column: str) -> list[str]:
    """Read the texts of a file. Raises DataRefused for a line without one."""
    from service.client.lines import Source

    texts = []
    for line in Source(path, column=column).lines():
        if line.problem:
            raise DataRefused(f"{path}:{line.number}: {line.problem}")
        texts.append(line.text)
    return texts


def _command(options: argparse.Namespace) -> str:
    """Write the command with every option that changes the model, and without the folders of this machine."""
    parts = ["distil", options.checkpoint.resolve().name, "--texts", "TEXTS", "--output", "RUN"]
    for name in ("aggregation_strategy", "layers", "words"):
        if value := getattr(options, name):
            parts += [f"--{name.replace('_', '-')}", str(value)]
    parts += ["--language", options.language] if options.language != "en" else []
    parts += ["--data", "DATA"] if options.data else []
    parts += [part for change in options.set for part in ("--set", change)]
    return f"python -m service {shlex.join(parts)}"
