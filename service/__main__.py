"""The command line. Each command imports what it needs, so that serving never waits for training's libraries."""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.errors import ServiceError

if TYPE_CHECKING:
    from service.exits.policy import ExitPolicy

_STARTED = time.monotonic()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 2 is returned for a mistake of the caller's, which is said in one line."""
    parser = argparse.ArgumentParser(prog="python -m service", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    _add_serve(commands)
    _add_train(commands)
    _add_evaluate(commands)
    _add_models(commands)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except ServiceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


Commands = Any  # argparse keeps the type of add_subparsers' result to itself


def _add_serve(commands: Commands) -> None:
    parser = commands.add_parser("serve", help="answer requests; settings come from NER_* environment variables")
    parser.set_defaults(run=_serve)


def _serve(_: argparse.Namespace) -> None:
    from service.api.server import serve

    serve(_STARTED)


def _add_train(commands: Commands) -> None:
    parser = commands.add_parser("train", help="train a model from a recipe, an encoder checkpoint and a data folder")
    parser.add_argument("recipe", type=Path, help="a TOML file, or the name of one in service/training/recipes")
    parser.add_argument("--encoder", type=Path, required=True, help="Transformers checkpoint folder to start from")
    parser.add_argument("--data", type=Path, required=True, help="folder that the recipe's files lie in")
    parser.add_argument("--output", type=Path, required=True, help="folder of the run; the model is written to model/")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="override a recipe field (TOML)"
    )
    parser.add_argument("--max-sentences", type=int, help="use only the first sentences of every file")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.set_defaults(run=_train)


def _train(options: argparse.Namespace) -> None:
    import tomllib

    from service.errors import BadInput
    from service.models.device import choose_device, use_threads
    from service.training.loop import train
    from service.training.recipe import read_recipe

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    named = Path(__file__).parent / "training" / "recipes" / f"{options.recipe}.toml"
    try:
        overrides = tomllib.loads("\n".join(options.set))
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"--set {options.set}: {error}; expected FIELD=VALUE as in TOML, text in quotes") from error
    use_threads(0)
    recipe = read_recipe(named if named.is_file() else options.recipe, overrides)
    changes = "".join(f" --set {shlex.quote(change)}" for change in options.set)
    folder = train(
        recipe,
        encoder=options.encoder,
        data=options.data,
        output=options.output,
        device=choose_device(options.device),
        command=f"python -m service train {options.recipe.stem}{changes} --encoder ENCODER --data DATA --output RUN",
        max_sentences=options.max_sentences,
    )
    print(folder)


def _add_evaluate(commands: Commands) -> None:
    parser = commands.add_parser("evaluate", help="F1 of every exit of a model on an annotated file")
    parser.add_argument("model", help="a folder, a name in the store, or name@version")
    parser.add_argument("file", type=Path, help="a .conll or .jsonl file")
    parser.add_argument("--store", type=Path, default=Path("model_store"), help="the model store")
    parser.add_argument(
        "--exit-policy", metavar="JSON", help="score this policy instead of every exit, as PATCH /exit-policy takes it"
    )
    parser.add_argument("--no-split", action="store_true", help="take every text as one sentence")
    parser.add_argument("--json", type=Path, help="write the result here as well")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace) -> None:
    from service.data.readers import read_examples
    from service.evaluation.evaluate import evaluate
    from service.evaluation.policy import evaluate_policy
    from service.evaluation.tables import format_evaluation
    from service.models.device import choose_device, use_threads
    from service.models.store import find_model, load_model

    use_threads(0)
    device = choose_device(options.device)
    stored = load_model(find_model(options.model, options.store))
    policy = _policy(options.exit_policy, stored.config.num_layers) if options.exit_policy else None
    model, split = stored.model.to(device), not options.no_split
    examples = read_examples(options.file)
    document = {"model": stored.reference, "file": options.file.name}
    if policy is not None:
        outcome = evaluate_policy(model, stored.text_encoder, examples, policy, device=device, split=split)
        document["exit_policy"] = {**policy.to_json(), **outcome.to_json()}
        print(json.dumps(document["exit_policy"]))
    else:
        result = evaluate(model, stored.text_encoder, examples, device=device, split=split)
        document |= result.to_json()
        print(format_evaluation(stored.reference, options.file.name, result))
    if options.json:
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _policy(text: str, num_layers: int) -> ExitPolicy:
    from service.errors import BadInput
    from service.exits.merge import policy_from_json

    try:
        values = json.loads(text)
    except ValueError as error:
        raise BadInput(f"--exit-policy {text!r} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise BadInput(f'--exit-policy {text!r} is no object; expected one such as {{"strategy": "vee"}}')
    return policy_from_json({"strategy": "vee", **values}, num_layers)


def _add_models(commands: Commands) -> None:
    parser = commands.add_parser("models", help="list the models in the store")
    parser.add_argument("--store", type=Path, default=Path("model_store"), help="the model store")
    parser.set_defaults(run=_models)


def _models(options: argparse.Namespace) -> None:
    from service.models.store import list_models

    for reference in list_models(options.store):
        print(reference)


if __name__ == "__main__":
    sys.exit(main())
