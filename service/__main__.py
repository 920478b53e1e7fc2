"""The command line. Each command imports what it needs, so that serving never waits for training's libraries."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.errors import ServiceError

if TYPE_CHECKING:
    from service.executors.executor import Executor
    from service.exits.policy import ExitPolicy
    from service.models.store import StoredModel

_STARTED = time.monotonic()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; -> its exit code. 2 is for a mistake of the caller's, which is said in one line."""
    parser = argparse.ArgumentParser(prog="python -m service", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    _add_serve(commands)
    _add_ask(commands)
    _add_train(commands)
    _add_evaluate(commands)
    _add_trace(commands)
    _add_replay(commands)
    _add_calibrate(commands)
    _add_report(commands)
    _add_models(commands)
    _add_compile(commands)
    options = parser.parse_args(arguments)
    try:
        code: int | None = options.run(options)
    except ServiceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return code or 0


Commands = Any  # argparse keeps the type of add_subparsers' result to itself


def _add_serve(commands: Commands) -> None:
    parser = commands.add_parser("serve", help="answer requests; settings come from NER_* environment variables")
    parser.set_defaults(run=_serve)


def _serve(_: argparse.Namespace) -> None:
    from service.api.server import serve

    serve(_STARTED)


def _add_ask(commands: Commands) -> None:
    parser = commands.add_parser(
        "ask", help="ask a running server for the entities of a text, or of a file of texts; NER_API_KEY holds its key"
    )
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("text", nargs="?", help="the text")
    asked.add_argument("--file", type=Path, help='.jsonl ({"text": ..., "id": ...} a line; ids are optional) or .txt')
    parser.add_argument("--url", help="the server; NER_URL, or else http://127.0.0.1:8000")
    parser.add_argument(
        "--output", type=Path, help="of --file: the answers; by default FILE.answers.jsonl, beside FILE"
    )
    parser.add_argument("--json", action="store_true", help="of one text: print the answer as the server gave it")
    parser.set_defaults(run=_ask)


def _ask(options: argparse.Namespace) -> int:
    from service.client.ask import ask_file, ask_text
    from service.client.http import NerClient
    from service.errors import BadInput

    if options.output and options.file is None:
        raise BadInput("--output is for the answers to --file; the answer to one text is printed")
    url = options.url or os.environ.get("NER_URL") or "http://127.0.0.1:8000"
    with NerClient(url, os.environ.get("NER_API_KEY", "")) as client:
        if options.file is not None:
            return ask_file(client, options.file, options.output or options.file.with_suffix(".answers.jsonl"))
        ask_text(client, options.text, as_json=options.json)
        return 0


def _add_train(commands: Commands) -> None:
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
    if options.max_sentences is not None:
        changes += f" --max-sentences {options.max_sentences}"
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
    _add_executor(parser)
    parser.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace) -> None:
    from service.assets import hashed_layers
    from service.data.readers import read_examples
    from service.evaluation.evaluate import evaluate
    from service.evaluation.replay import Replayer
    from service.evaluation.run_policy import evaluate_policy
    from service.evaluation.tables import format_evaluation
    from service.evaluation.trace import trace
    from service.models.store import find_model, load_model

    stored = load_model(find_model(options.model, options.store))
    executor = _executor(options, stored)
    policy = _policy(options.exit_policy, stored) if options.exit_policy else None
    split = not options.no_split
    examples = read_examples(options.file)
    document = {"model": stored.reference, "file": options.file.name}
    if policy is not None:
        if policy.is_replayable:
            found = Replayer(trace(stored, examples, options.file.name, executor, split=split)).replay(policy).to_json()
        else:
            found = evaluate_policy(executor, stored.text_encoder, examples, policy, split=split).to_json()
        document["exit_policy"] = {**policy.to_json(), **found}
        print(json.dumps(document["exit_policy"]))
    else:
        word_layers = None if stored.config.hash is None else hashed_layers(stored.model).of
        result = evaluate(executor, stored.text_encoder, examples, split=split, word_layers=word_layers)
        document |= result.to_json()
        print(format_evaluation(stored.reference, options.file.name, result))
    if options.json:
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _add_executor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--executor", default="auto", help="auto, cuda, eager or fused; auto as the server chooses")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=int, default=0, help="of a CPU; 0: as many as the cgroup's quota allows")


def _executor(options: argparse.Namespace, stored: StoredModel) -> Executor:
    from service.executors.choose import make_executor
    from service.models.device import use_threads

    threads = use_threads(options.threads)
    return make_executor(options.executor, stored.model, device=options.device, threads=threads)


def _policy(text: str, stored: StoredModel) -> ExitPolicy:
    from service.assets import assets_of
    from service.errors import BadInput
    from service.exits.operating_points import catalog_of

    try:
        values = json.loads(text)
    except ValueError as error:
        raise BadInput(f"--exit-policy {text!r} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise BadInput(f'--exit-policy {text!r} is no object; expected one such as {{"strategy": "vee"}}')
    catalog = catalog_of(stored.operating_points, assets_of(stored.model))
    return catalog.policy({"strategy": "vee", **values})


def _add_trace(commands: Commands) -> None:
    parser = commands.add_parser("trace", help="run a data set to full depth once and keep what every exit said")
    parser.add_argument("model", help="a folder, a name in the store, or name@version")
    parser.add_argument("file", type=Path, help="a .conll or .jsonl file")
    parser.add_argument("--output", type=Path, required=True, help="the trace file to write (safetensors)")
    parser.add_argument("--store", type=Path, default=Path("model_store"), help="the model store")
    _add_executor(parser)
    parser.set_defaults(run=_trace)


def _trace(options: argparse.Namespace) -> None:
    from service.data.readers import read_examples
    from service.evaluation.trace import save_trace, trace
    from service.models.store import find_model, load_model

    stored = load_model(find_model(options.model, options.store))
    examples = read_examples(options.file)
    save_trace(options.output, trace(stored, examples, options.file.name, _executor(options, stored)))
    print(options.output)


def _add_replay(commands: Commands) -> None:
    parser = commands.add_parser("replay", help="F1 and exit layers of a policy on a trace")
    parser.add_argument("trace", type=Path, help="a file made by `trace`")
    parser.add_argument("--exit-policy", metavar="JSON", required=True, help="as PATCH /exit-policy takes it")
    parser.add_argument("--store", type=Path, default=Path("model_store"), help="the store that the model lies in")
    parser.add_argument("--model", help="the traced model's folder, if it lies elsewhere")
    parser.set_defaults(run=_replay)


def _replay(options: argparse.Namespace) -> None:
    from service.errors import DataRefused
    from service.evaluation.replay import Replayer
    from service.evaluation.trace import load_trace
    from service.models.store import find_model, load_model

    traced = load_trace(options.trace)
    stored = load_model(find_model(options.model or traced.model, options.store))
    if stored.weights_sha256 != traced.weights_sha256:
        raise DataRefused(f"{options.trace} is a trace of other weights than {stored.folder} has; trace again")
    policy = _policy(options.exit_policy, stored)
    print(json.dumps({**policy.to_json(), **Replayer(traced).replay(policy).to_json()}))


def _add_calibrate(commands: Commands) -> None:
    parser = commands.add_parser(
        "calibrate", help="sweep all exit strategies on dev data, time them here, put operating points into the model"
    )
    parser.add_argument("model", help="a folder, a name in the store, or name@version")
    parser.add_argument("file", type=Path, help="a .conll or .jsonl file that the model was not trained on")
    parser.add_argument("--store", type=Path, default=Path("model_store"), help="the model store")
    _add_executor(parser)
    parser.set_defaults(run=_calibrate)


def _calibrate(options: argparse.Namespace) -> None:
    from functools import partial

    from service.data.readers import read_examples
    from service.errors import BadInput
    from service.evaluation.calibrate import calibrate
    from service.evaluation.cost import CostMeter
    from service.evaluation.evaluate import encode_examples
    from service.evaluation.sweep_runs import sweep_runs
    from service.evaluation.tables import format_operating_points
    from service.evaluation.trace import trace
    from service.models.store import find_model, load_model, write_operating_points

    stored = load_model(find_model(options.model, options.store))
    if stored.config.hash is not None:
        raise BadInput(
            f"{stored.reference} was trained under a hash, which leaves nothing to calibrate: use it as it is"
        )
    examples = read_examples(options.file)
    executor = _executor(options, stored)
    traced = trace(stored, examples, options.file.name, executor)
    texts = encode_examples(stored.text_encoder, examples)
    sequences = [sequence for text in texts for sequence in text.sequences]
    meter = CostMeter(executor, sequences)
    runs = partial(sweep_runs, stored, executor, examples, sequences)
    command = f"python -m service calibrate {stored.config.name} DATA/{options.file.name}"
    provenance = {"command": command, **executor.describe(), "batch": 1}
    calibration = calibrate(traced, meter, provenance, runs)
    write_operating_points(stored.folder, calibration.to_json())
    print(format_operating_points(stored.reference, calibration))


def _add_report(commands: Commands) -> None:
    parser = commands.add_parser("report", help="compare all strategies on test data: tables and figures in a folder")
    parser.add_argument(
        "models", nargs="+", metavar="MODEL=DEV,TEST", help="a calibrated model, its dev file and its test file"
    )
    parser.add_argument("--output", type=Path, default=Path("docs"), help="results.md and its figures are written here")
    parser.add_argument("--store", type=Path, default=Path("model_store"), help="the model store")
    _add_executor(parser)
    parser.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> None:
    from service.errors import BadInput
    from service.evaluation.report import report
    from service.evaluation.study import study
    from service.models.store import find_model, load_model

    studies = []
    for argument in options.models:
        name, _, files = argument.partition("=")
        dev, _, test = files.partition(",")
        if not (name and dev and test):
            raise BadInput(f"{argument!r} is no MODEL=DEV,TEST; expected a model and its two files")
        stored = load_model(find_model(name, options.store))
        executor = _executor(options, stored)
        studies.append(study(stored, Path(dev), Path(test), executor))
        executor.close()
    print(report(studies, options.output))


def _add_models(commands: Commands) -> None:
    parser = commands.add_parser("models", help="list the models in the store")
    parser.add_argument("--store", type=Path, default=Path("model_store"), help="the model store")
    parser.set_defaults(run=_models)


def _models(options: argparse.Namespace) -> None:
    from service.models.store import list_models

    for reference in list_models(options.store):
        print(reference)


def _add_compile(commands: Commands) -> None:
    parser = commands.add_parser("compile", help="compile the kernels for this machine, so that no start has to wait")
    parser.set_defaults(run=_compile)


def _compile(_: argparse.Namespace) -> None:
    from service.executors.choose import import_fused

    import_fused().compile_kernels()


if __name__ == "__main__":
    sys.exit(main())
