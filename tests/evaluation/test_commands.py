"""calibrate, trace, replay and evaluate from the command line, on a tiny model; and the mistakes one can make there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from service.errors import BadInput
from service.evaluation import pipelines
from service.evaluation.trace import load_trace
from service.exits.operating_points import PRESETS, Calibration
from service.models.store import StoredModel, load_model, save_model, write_checksums
from tests.api.servers_ import tiny_service
from tests.evaluation.conftest import NUM_LAYERS, OnDisk
from tests.evaluation.traces_ import tiny_examples, tiny_stored, write_jsonl
from tests.executors.executors_ import kernel_config, kernel_model
from tests.exits.strategies_ import model_of
from tests.models_ import save_tiny_model, tiny_config, tiny_tokenizer

VEE = '{"strategy": "vee", "measure": "js", "tau": -0.05, "patience": 2}'


def calibration_of(stored: StoredModel) -> Calibration:
    assert stored.operating_points is not None
    return Calibration.from_json(stored.operating_points, model_of(NUM_LAYERS))


@pytest.fixture(scope="module")
def traced(calibrated: OnDisk, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trace of the calibrated model on the test file."""
    path = tmp_path_factory.mktemp("traces") / "test.trace"
    assert calibrated.run("trace", "tiny", calibrated.test, "--output", path, "--device", "cpu") == 0
    return path


def refusal(of: OnDisk, capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """What a command says that fails."""
    assert of.run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and captured.err.count("\n") == 1
    return captured.err


# calibrate


def test_a_calibrated_model_loads_with_its_operating_points(calibrated: OnDisk) -> None:
    stored = load_model(calibrated.model)
    calibration = calibration_of(stored)
    assert {point.preset for point in calibration.points if point.preset} == set(PRESETS)
    assert calibration.rule is not None and calibration.rule.num_layers == NUM_LAYERS


def test_its_provenance_names_weights_data_device_and_command(calibrated: OnDisk) -> None:
    stored = load_model(calibrated.model)
    provenance = calibration_of(stored).provenance
    assert provenance["weights_sha256"] == stored.weights_sha256
    assert provenance["command"] == "python -m service calibrate tiny DATA/dev.jsonl"
    assert (provenance["data"], provenance["device"], provenance["dtype"]) == ("dev.jsonl", "cpu", "float32")
    assert (provenance["executor"], provenance["threads"]) == ("eager", 1)
    assert (provenance["batch"], provenance["texts"]) == (1, 30)


def test_measured_speedups_are_those_of_the_front(calibrated: OnDisk) -> None:
    points = calibration_of(load_model(calibrated.model)).points
    speedups = [point.speedup_latency for point in points]
    assert speedups == sorted(speedups, reverse=True) and len(speedups) > 1
    assert all(point.average_exit_layer <= NUM_LAYERS and point.speedup_latency > 0 for point in points)


def test_a_server_starts_with_the_balanced_preset(calibrated: OnDisk, tmp_path: Path) -> None:
    service = tiny_service(calibrated.model, tmp_path / "state")
    (balanced,) = (point for point in calibration_of(load_model(calibrated.model)).points if point.preset == "balanced")
    state = service.policy.describe()
    assert state.preset == "balanced" and state.in_force.expected == balanced.expected()
    assert service.policy.current.policy.to_json() == balanced.parameters
    assert service.environment["calibration"]["data"] == "dev.jsonl"


def test_calibrating_prints_every_point_and_marks_the_presets(
    uncalibrated: OnDisk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of = OnDisk(tmp_path, uncalibrated.dev, uncalibrated.test)
    config = tiny_config(num_layers=3)
    save_tiny_model(of.model, config)
    assert of.run("calibrate", "tiny", of.dev, "--device", "cpu", "--threads", "1") == 0
    printed = capsys.readouterr().out
    stored = load_model(of.model)
    assert stored.operating_points is not None
    calibration = Calibration.from_json(stored.operating_points, model_of(3))
    assert printed.startswith("tiny@1, calibrated on dev.jsonl: ")
    assert printed.count(" x   ") == len(calibration.points) + len(calibration.others)
    assert [line.partition("<- ")[2] for line in printed.splitlines() if "<- " in line] == list(reversed(PRESETS))


def test_calibrating_adds_the_operating_points_and_leaves_the_rest_of_the_model_as_it_was(
    uncalibrated: OnDisk, calibrated: OnDisk
) -> None:
    before, after = ({file.name: file.read_bytes() for file in of.model.iterdir()} for of in (uncalibrated, calibrated))
    assert after.keys() - before.keys() == {"operating_points.json"}
    assert all(after[name] == content for name, content in before.items() if name != "checksums.json")


# trace and replay


def test_a_trace_is_of_the_model_and_the_data(calibrated: OnDisk, traced: Path) -> None:
    found = load_trace(traced)
    assert (found.model, found.data) == ("tiny@1", "test.jsonl")
    assert found.weights_sha256 == load_model(calibrated.model).weights_sha256
    assert len(found.texts) == 20


@pytest.mark.parametrize(
    "policy",
    [
        VEE,
        "{}",
        '{"deepest_exit": 1}',
        '{"preset": "fast"}',
        '{"rollback_to": 1}',
        '{"strategy": "learned"}',
        '{"strategy": "budgeted", "layer": 2}',
    ],
)
def test_replay_says_what_evaluate_says_of_a_policy(
    calibrated: OnDisk, traced: Path, policy: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert calibrated.run("replay", traced, "--exit-policy", policy) == 0
    replayed = json.loads(capsys.readouterr().out)
    file = tmp_path / "result.json"
    assert calibrated.run("evaluate", "tiny", calibrated.test, "--exit-policy", policy, "--json", file) == 0
    assert json.loads(capsys.readouterr().out) == replayed
    document: dict[str, Any] = json.loads(file.read_text())
    assert document == {"model": "tiny@1", "file": "test.jsonl", "exit_policy": replayed}
    assert replayed["strategy"] == json.loads(policy).get("strategy", "learned")  # that of a server just started
    assert sum(replayed["exit_layers"].values()) == replayed["sequences"]


@pytest.mark.parametrize(
    "goal", [{"preset": "fast"}, {"speedup": 1.0}, {"max_f1_loss": 100}, {"average_exit_layer": 4}]
)
def test_a_policy_is_asked_for_by_a_goal_as_on_the_wire(
    calibrated: OnDisk, traced: Path, goal: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    ((name, wish),) = goal.items()
    assert calibrated.run("replay", traced, "--exit-policy", json.dumps(goal)) == 0
    chosen = calibration_of(load_model(calibrated.model)).choose(name, wish)
    assert json.loads(capsys.readouterr().out).items() >= chosen.parameters.items()


def test_a_policy_left_open_takes_the_calibrated_defaults(
    calibrated: OnDisk, traced: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert calibrated.run("replay", traced, "--exit-policy", '{"strategy": "sentee"}') == 0
    tau = json.loads(capsys.readouterr().out)["tau"]
    points = calibration_of(load_model(calibrated.model)).others
    (sentee,) = (point for point in points if point.parameters["strategy"] == "sentee")
    assert tau == sentee.parameters["tau"]


def test_a_model_outside_the_store_is_given_by_its_folder(
    calibrated: OnDisk, traced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = OnDisk(tmp_path, calibrated.dev, calibrated.test)
    arguments = ("replay", traced, "--exit-policy", VEE)
    assert "no model 'tiny@1'" in refusal(elsewhere, capsys, *arguments)
    assert elsewhere.run(*arguments, "--model", calibrated.model) == 0


# executors


@pytest.fixture(scope="module")
def for_kernels(tmp_path_factory: pytest.TempPathFactory) -> OnDisk:
    """A model `tiny` that kernels can run, and the same file twice."""
    folder, config = tmp_path_factory.mktemp("kernels"), kernel_config()
    model = kernel_model(config)
    stored = tiny_stored(config, model)
    file = write_jsonl(folder / "dev.jsonl", tiny_examples(stored, 20, sentence_words=(4, 6, 9)))
    of = OnDisk(folder / "store", file, file)
    save_model(of.model, model, tiny_tokenizer(), "# For the kernels\n")
    return of


COMMANDS = {
    "evaluate": ("evaluate", "tiny", "{dev}"),
    "trace": ("trace", "tiny", "{dev}", "--output", "{folder}/t"),
    "calibrate": ("calibrate", "tiny", "{dev}"),
    "report": ("report", "tiny={dev},{test}", "--output", "{folder}/docs"),
}
every_command = pytest.mark.parametrize("command", COMMANDS)


def arguments_of(command: str, of: OnDisk, folder: Path) -> list[str]:
    return [word.format(dev=of.dev, test=of.test, folder=folder) for word in COMMANDS[command]]


@every_command
@pytest.mark.parametrize("told", [("eager", "cpu", 3), ("fused", "auto", 2)])
def test_a_command_runs_the_executor_that_it_is_told(
    calibrated: OnDisk, command: str, told: tuple[str, str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, threads_of_torch = [], list[int]()

    def refuse(name: str, _: object, *, device: str, threads: int, instructions: str) -> None:
        assert instructions == "auto"
        asked.append((name, device, threads))
        raise BadInput("that is all")

    monkeypatch.setattr(pipelines, "make_executor", refuse)
    monkeypatch.setattr(torch, "set_num_threads", threads_of_torch.append)
    name, device, threads = told
    options = (f"--executor={name}", f"--device={device}", f"--threads={threads}")
    assert calibrated.run(*arguments_of(command, calibrated, tmp_path), *options) == 2
    assert (asked, threads_of_torch) == ([told], [threads])
    assert calibrated.run(*arguments_of(command, calibrated, tmp_path)) == 2
    assert (asked[1:], threads_of_torch[1:]) == ([("auto", "auto", 1)], [1])  # as many as there are cores


@every_command
def test_an_executor_that_cannot_be_is_refused(
    calibrated: OnDisk, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = arguments_of(command, calibrated, tmp_path)
    assert "executor 'tpu' is unknown" in refusal(calibrated, capsys, *arguments, "--executor", "tpu")
    said = refusal(calibrated, capsys, *arguments, "--executor", "fused", "--device", "cpu")
    assert "fused cannot run this model" in said and "use executor auto or eager" in said


def test_what_kernels_traced_is_replayed_as_kernels_are_evaluated(
    for_kernels: OnDisk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    on = ("--executor", "fused", "--device", "cpu", "--threads", "1")
    assert for_kernels.run("trace", "tiny", for_kernels.dev, "--output", tmp_path / "t", *on) == 0
    capsys.readouterr()
    for policy in (VEE, '{"strategy": "pabee", "patience": 1}', '{"strategy": "budgeted", "layer": 2}'):
        assert for_kernels.run("replay", tmp_path / "t", "--exit-policy", policy) == 0
        replayed = json.loads(capsys.readouterr().out)
        assert for_kernels.run("evaluate", "tiny", for_kernels.dev, "--exit-policy", policy, *on) == 0
        assert json.loads(capsys.readouterr().out) == replayed
        assert replayed["correct"] > 0


def test_a_calibration_names_the_executor_that_was_timed(for_kernels: OnDisk) -> None:
    on = ("--executor", "fused", "--device", "cpu", "--threads", "1")
    assert for_kernels.run("calibrate", "tiny", for_kernels.dev, *on) == 0
    document = load_model(for_kernels.model).operating_points
    assert document is not None
    calibration = Calibration.from_json(document, model_of(3))
    names = ("executor", "dtype", "device", "threads")
    assert [calibration.provenance[name] for name in names] == ["fused", "int8", "cpu", 1]


# mistakes


def test_a_trace_of_other_weights_is_refused(
    calibrated: OnDisk, traced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = save_tiny_model(tmp_path / "other", tiny_config(num_layers=NUM_LAYERS), seed=1)
    said = refusal(calibrated, capsys, "replay", traced, "--exit-policy", VEE, "--model", other)
    assert "is a trace of other weights" in said and "trace again" in said


def test_a_file_that_is_no_trace_is_refused(calibrated: OnDisk, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(calibrated, capsys, "replay", calibrated.test, "--exit-policy", VEE)
    assert "is no trace" in said and "python -m service trace" in said


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("tau=-0.1", "--exit-policy 'tau=-0.1' is not JSON"),
        ("[1]", 'expected one such as {"strategy": "vee"}'),
        ('{"strategy": "vee", "tau": 1}', "tau is 1; expected a number at most 0"),
        ('{"preset": "fastest"}', "preset is 'fastest'; expected one of ['accurate', 'balanced', 'fast']"),
        ('{"preset": "fast", "tau": 1}', "expected parameters, or exactly one goal"),
        ('{"version": 3}', "version cannot be set"),
        ('{"autopilot": {"p95_ms": 100, "max_f1_loss": 1}}', "autopilot, which follows a load that is not there"),
        ('{"strategy": "vote"}', "expected one of ['branchynet', 'budgeted'"),
        ('{"gate": 1}', "has no parameter gate; it has ['tau', 'deepest_exit']"),
    ],
)
def test_a_policy_that_cannot_be_is_refused(
    calibrated: OnDisk, traced: Path, policy: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refusal(calibrated, capsys, "replay", traced, "--exit-policy", policy)
    assert said in refusal(calibrated, capsys, "evaluate", "tiny", calibrated.test, "--exit-policy", policy)


def test_a_learned_policy_needs_a_calibrated_model(uncalibrated: OnDisk, capsys: pytest.CaptureFixture[str]) -> None:
    policy = '{"strategy": "learned"}'
    said = refusal(uncalibrated, capsys, "evaluate", "tiny", uncalibrated.test, "--exit-policy", policy)
    assert "calibrate it first" in said


@pytest.mark.parametrize("command", ["calibrate", "trace"])
def test_a_missing_model_or_data_file_is_refused(
    uncalibrated: OnDisk, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = () if command == "calibrate" else ("--output", tmp_path / "t")
    assert "no model 'nobody'" in refusal(uncalibrated, capsys, command, "nobody", uncalibrated.dev, *output)
    assert "nowhere.jsonl does not exist" in refusal(uncalibrated, capsys, command, "tiny", "nowhere.jsonl", *output)


def test_operating_points_of_other_weights_are_refused(
    calibrated: OnDisk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_tiny_model(tmp_path / "tiny" / "1", tiny_config(num_layers=NUM_LAYERS), seed=1)
    points = calibrated.model / "operating_points.json"
    (folder / points.name).write_bytes(points.read_bytes())
    write_checksums(folder)
    of = OnDisk(tmp_path, calibrated.dev, calibrated.test)
    assert "calibrate the model again" in refusal(of, capsys, "evaluate", "tiny", of.test)
