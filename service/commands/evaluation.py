"""Parses `evaluate`, `trace`, `replay`, `calibrate` and `report`, and prints what `evaluation.pipelines` finds."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.commands import Commands
from service.errors import BadInput

if TYPE_CHECKING:
    from service.evaluation.pipelines import Compared, ExecutorChoice
    from service.exits.policy import ExitPolicy
    from service.models.store import StoredModel


def add_to(commands: Commands) -> None:
    """Add all five commands."""
    _add_evaluate(commands)
    _add_trace(commands)
    _add_replay(commands)
    _add_calibrate(commands)
    _add_report(commands)


def _add_evaluate(commands: Commands) -> None:
    parser = commands.add_parser("evaluate", help="F1 of every exit of a model on an annotated file")
    _add_model(parser)
    parser.add_argument("file", type=Path, help="a .conll or .jsonl file")
    parser.add_argument(
        "--exit-policy",
        metavar="JSON",
        help="score this policy instead of every exit; all that PATCH /exit-policy takes, goals too",
    )
    parser.add_argument("--no-split", action="store_true", help="take every text as one sentence")
    parser.add_argument("--json", type=Path, help="write the result here as well")
    add_executor(parser)
    parser.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace) -> None:
    from service.evaluation.pipelines import evaluate_exit_policy, evaluate_exits
    from service.evaluation.tables import format_evaluation

    stored, split = _stored(options), not options.no_split
    if not stored.config.has_early_exits and not options.exit_policy:
        options.exit_policy = '{"strategy": "full_depth"}'  # there is no other exit to score
    document: dict[str, Any] = {"model": stored.reference, "file": options.file.name}
    if options.exit_policy:
        policy = _policy(stored, options.exit_policy)
        found = evaluate_exit_policy(stored, options.file, policy, executor_of(options), split=split)
        document["exit_policy"] = found.to_json()
        print(json.dumps(document["exit_policy"]))
    else:
        result = evaluate_exits(stored, options.file, executor_of(options), split=split)
        document |= result.to_json()
        print(format_evaluation(stored.reference, options.file.name, result))
    if options.json:
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _add_trace(commands: Commands) -> None:
    parser = commands.add_parser("trace", help="run a data set to full depth once and keep what every exit said")
    _add_model(parser)
    parser.add_argument("file", type=Path, help="a .conll or .jsonl file")
    parser.add_argument("--output", type=Path, required=True, help="the trace file to write (safetensors)")
    add_executor(parser)
    parser.set_defaults(run=_trace)


def _trace(options: argparse.Namespace) -> None:
    from service.evaluation.pipelines import trace_file
    from service.evaluation.trace import save_trace

    save_trace(options.output, trace_file(_stored(options), options.file, executor_of(options)))
    print(options.output)


def _add_replay(commands: Commands) -> None:
    parser = commands.add_parser("replay", help="F1 and exit layers of a policy on a trace")
    parser.add_argument("trace", type=Path, help="a file made by `trace`")
    parser.add_argument("--exit-policy", metavar="JSON", required=True, help="all that PATCH /exit-policy takes")
    parser.add_argument("--store", type=Path, default=Path("model_store"), help="the store that the model lies in")
    parser.add_argument("--model", help="the traced model's folder, if it lies elsewhere")
    parser.set_defaults(run=_replay)


def _replay(options: argparse.Namespace) -> None:
    from service.evaluation.pipelines import replay_trace, traced_model
    from service.evaluation.trace import load_trace

    traced = load_trace(options.trace)
    stored = traced_model(traced, options.trace, options.store, options.model)
    print(json.dumps(replay_trace(traced, _policy(stored, options.exit_policy)).to_json()))


def _add_calibrate(commands: Commands) -> None:
    parser = commands.add_parser(
        "calibrate", help="sweep all exit strategies on dev data, time them here, put operating points into the model"
    )
    parser.add_argument("model", nargs="?", help="a folder, a name in the store, or name@version")
    parser.add_argument("file", nargs="?", type=Path, help="a .conll or .jsonl file that the model was not trained on")
    parser.add_argument("--store", type=Path, default=Path("model_store"), help="the model store")
    parser.add_argument(
        "--from-traffic",
        metavar="URL",
        help="in place of a model and a file: fit operating points to the samples of a running server, on agreement "
        "with full depth, and install them there beside the model's own; NER_ADMIN_KEY holds its key",
    )
    parser.add_argument("--back", action="store_true", help="with --from-traffic: go back to what there was before")
    add_executor(parser)
    parser.set_defaults(run=_calibrate)


def _calibrate(options: argparse.Namespace) -> None:
    if options.from_traffic is not None:
        _calibrate_from_traffic(options)
        return
    if options.file is None or options.back:
        raise BadInput("expected a model and a file of dev data, or --from-traffic URL, which --back goes with")
    from service.evaluation.pipelines import calibrate_model
    from service.evaluation.tables import format_operating_points

    stored = _stored(options)
    print(format_operating_points(stored.reference, calibrate_model(stored, options.file, executor_of(options))))


def _calibrate_from_traffic(options: argparse.Namespace) -> None:
    from service.commands.traffic import TrafficServer, calibrate_from_traffic, go_back

    if options.model is not None:
        raise BadInput(f"given {options.model!r} beside --from-traffic; the server knows its model: leave it out")
    server = TrafficServer(options.from_traffic)
    try:
        print(go_back(server) if options.back else calibrate_from_traffic(server))
    finally:
        server.close()


def _add_report(commands: Commands) -> None:
    parser = commands.add_parser("report", help="compare all strategies on test data: tables and figures in a folder")
    parser.add_argument(
        "models", nargs="+", metavar="MODEL=DEV,TEST", help="a calibrated model, its dev file and its test file"
    )
    parser.add_argument("--output", type=Path, default=Path("docs"), help="results.md and its figures are written here")
    parser.add_argument("--store", type=Path, default=Path("model_store"), help="the model store")
    add_executor(parser)
    parser.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> None:
    from service.evaluation.pipelines import report_on

    compared = [_compared(argument) for argument in options.models]
    print(report_on(compared, options.output, options.store, executor_of(options)))


def _compared(argument: str) -> Compared:
    from service.evaluation.pipelines import Compared

    name, _, files = argument.partition("=")
    dev, _, test = files.partition(",")
    if not (name and dev and test):
        raise BadInput(f"{argument!r} is no MODEL=DEV,TEST; expected a model and its two files")
    return Compared(name, Path(dev), Path(test))


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a folder, a name in the store, or name@version")
    parser.add_argument("--store", type=Path, default=Path("model_store"), help="the model store")


def _stored(options: argparse.Namespace) -> StoredModel:
    from service.models.store import find_model, load_model

    return load_model(find_model(options.model, options.store))


def add_executor(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which executor runs a model, and on what."""
    parser.add_argument("--executor", default="auto", help="auto, cuda, eager or fused; auto as the server chooses")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=int, default=0, help="of a CPU; 0: as many as the cgroup's quota allows")
    parser.add_argument(
        "--instructions", default="auto", help="that kernels on a CPU use, such as avx2; auto: the fastest there are"
    )


def executor_of(options: argparse.Namespace) -> ExecutorChoice:
    """Return what the options of `add_executor` say."""
    from service.evaluation.pipelines import ExecutorChoice

    return ExecutorChoice(options.executor, options.device, options.threads, options.instructions)


def _policy(stored: StoredModel, text: str) -> ExitPolicy:
    """Return the policy that PATCH /exit-policy would make of `text` on a server that has just started on the model."""
    from service.assets import assets_of
    from service.exits.operating_points import Calibration
    from service.policy.goals import Goals

    assets, points = assets_of(stored.model), stored.operating_points
    goals = Goals.of(stored.reference, assets, None if points is None else Calibration.from_json(points, assets))
    changes, default = _changes(text), goals.default()
    if "autopilot" in changes:
        raise BadInput("--exit-policy has an autopilot, which follows a load that is not there; expected a policy")
    return goals.changed(default, changes, {1: default.to_json()}) if changes else default


def _changes(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise BadInput(f"--exit-policy {text!r} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise BadInput(f'--exit-policy {text!r} is no object; expected one such as {{"strategy": "vee"}}')
    return values
