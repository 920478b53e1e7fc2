"""Evaluations without a command line: from a stored model and a file to a result."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.errors import DataRefused
from service.evaluation.pipelines import (
    ExecutorChoice,
    evaluate_exit_policy,
    evaluate_exits,
    replay_trace,
    trace_file,
)
from service.evaluation.trace import load_trace, save_trace
from service.executors.eager import EagerExecutor
from service.exits.policies.full_depth import FullDepth
from service.exits.policies.vee import Vee
from service.models.store import load_model
from tests.evaluation.conftest import NUM_LAYERS, OnDisk

ON_CPU = ExecutorChoice("eager", "cpu", 1)


def test_full_depth_scores_as_the_last_exit_does(uncalibrated: OnDisk) -> None:
    stored = load_model(uncalibrated.model)
    exits = evaluate_exits(stored, uncalibrated.test, ON_CPU).exits
    full = evaluate_exit_policy(stored, uncalibrated.test, FullDepth(), ON_CPU)
    assert len(exits) == NUM_LAYERS and full.figures.micro == exits[-1].micro


def test_a_trace_replays_as_the_policy_evaluates(uncalibrated: OnDisk, tmp_path: Path) -> None:
    stored, policy = load_model(uncalibrated.model), Vee("js", tau=-0.05, patience=2)
    save_trace(tmp_path / "trace", trace_file(stored, uncalibrated.test, ON_CPU))
    replayed = replay_trace(load_trace(tmp_path / "trace"), policy)
    assert replayed.to_json() == evaluate_exit_policy(stored, uncalibrated.test, policy, ON_CPU).to_json()


def test_the_executor_is_closed_in_the_end_even_of_a_failure(
    uncalibrated: OnDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []
    monkeypatch.setattr(EagerExecutor, "close", lambda executor: closed.append(executor))
    stored = load_model(uncalibrated.model)
    evaluate_exits(stored, uncalibrated.test, ON_CPU)
    with pytest.raises(DataRefused, match="does not exist"):
        evaluate_exits(stored, tmp_path / "nowhere.jsonl", ON_CPU)
    assert len(closed) == 2
