"""benchmarks.gpu, as far as a CPU goes: its order, its budget, and that one failure costs no other figure."""

from __future__ import annotations

import json
import sys
from io import StringIO
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu import PEERS, TESTS, Measurement, Row, Setup, agreement, carry_out, leaving_after, main
from service.executors.eager import EagerExecutor
from service.stepping.advance import run
from service.stepping.passage import Passage
from tests.models_ import random_sequences, tiny_model


def lines(out: StringIO) -> list[Row]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def failing() -> Row:
    raise RuntimeError("no such kernel")


def test_a_failure_is_a_result_and_the_next_measurement_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    out = StringIO()
    told = iter([Measurement({"what": "one"}, failing), Measurement({"what": "two"}, lambda: {"median_ms": 1.0})])
    assert carry_out(told, 100.0, out) == 1
    assert lines(out) == [{"what": "one", "error": "RuntimeError: no such kernel"}, {"what": "two", "median_ms": 1.0}]
    assert capsys.readouterr().out == out.getvalue()


def test_what_the_budget_has_no_room_for_is_told_and_what_takes_less_still_runs() -> None:
    out = StringIO()
    told = [Measurement({"what": "long"}, failing, 90.0), Measurement({"what": "short"}, lambda: {"ms": 2}, 1.0)]
    assert carry_out(iter(told), 60.0, out) == 0
    long, short = lines(out)
    assert long["not run"] == "60 s are left, it may take 90" and short == {"what": "short", "ms": 2}


def test_a_result_is_in_the_file_before_the_next_measurement_begins(tmp_path: Path) -> None:
    file = tmp_path / "gpu.jsonl"
    seen: list[int] = []

    def count() -> Row:
        seen.append(len(file.read_text(encoding="utf-8").splitlines()))
        return {}

    with file.open("w", encoding="utf-8") as out:
        carry_out(iter([Measurement({}, count), Measurement({}, count)]), 100.0, out)
    assert seen == [0, 1]


def test_without_a_gpu_it_names_what_was_not_run_the_most_important_first(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    main([])
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("no GPU: nothing was measured")
    told = [json.loads(line.removeprefix("not run: ")) for line in rest]
    assert told[1] == {"what": "engine", "size": "base", "batch": 1, "pieces": 32}
    shapes = {(size, batch, pieces) for size in ("base", "minilm") for batch in (1, 64) for pieces in (32, 128)}
    for what in ("engine", "layers and exits", *PEERS):
        assert {(row["size"], row["batch"], row["pieces"]) for row in told if row["what"] == what} == shapes
    names = [row["what"] for row in told]
    assert names.index(PEERS[2]) < names.index("kernels") < names.index("layers and exits")
    assert told[-1] == {"what": "tests"}


def test_a_rehearsal_goes_through_all_of_it_but_what_needs_a_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = gpu.plan
    monkeypatch.setattr(gpu, "TRIES", 1)
    monkeypatch.setattr(gpu, "plan", lambda *given: (one for one in plan(*given) if one.told["what"] != PEERS[2]))
    with pytest.raises(SystemExit, match="0"):
        main(["--rehearse", "--budget", "100", "--out", str(tmp_path / "gpu.jsonl")])
    environment, *rows = map(json.loads, (tmp_path / "gpu.jsonl").read_text(encoding="utf-8").splitlines())
    assert environment["rehearsal"] and environment["torch"] and environment["card"] is None
    assert {row["what"] for row in rows if "error" in row} == {PEERS[1]}
    assert not any("not run" in row for row in rows)
    (engine, _) = (row for row in rows if row["what"] == "engine")
    assert engine["full depth"]["texts_per_s"] > 0 and engine["leaving after layer 2"]["median_ms"] > 0
    assert all(row["full depth"]["top"] == [] for row in rows if row["what"] == "kernels")  # no card, no kernel


def test_the_graphs_of_an_executor_are_counted() -> None:
    assert gpu.of_graphs(EagerExecutor(tiny_model(), torch.device("cpu"))) == {}


def test_both_sides_of_the_agreement_run_the_same_model() -> None:
    (difference,) = agreement(Setup(torch.device("cpu"), "eager"), gpu.TINY).values()
    assert difference == 0.0


def test_everybody_leaves_after_the_layer_that_is_said() -> None:
    policy = leaving_after(2, 4)
    executor = EagerExecutor(tiny_model(), torch.device("cpu"))
    passages = [Passage(one, policy) for one in random_sequences((5, 1, 9))]
    assert [passage.layer for passage in run(executor, passages)] == [2] * 3


def test_no_benchmark_hides_a_module_of_the_standard_library() -> None:
    """Whoever runs one as a file has its folder searched first: PyTorch's profiler would import ours as `profile`."""
    names = {file.stem for file in Path(gpu.__file__).parent.glob("*.py")}
    assert "gpu" in names and not names & sys.stdlib_module_names


def test_the_tests_that_it_runs_are_there_and_its_largest_batch_is_one_step() -> None:
    root = Path(__file__).resolve().parents[2]
    assert all((root / name).is_file() for name in TESTS)
    assert max(batch * pieces for _, batch, pieces in gpu.SHAPES) == gpu.STEP_PIECES
