"""A whole run on made-up sentences: it learns, writes what it promises, and killed half-way ends as if left alone."""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from service.errors import BadInput, DataRefused, ModelRefused
from service.models.config import ExitConfig
from service.models.store import load_model
from service.text.encoder import TextConfig
from service.training import loop
from service.training.optimisation import Optimisation
from service.training.state import TrainingState, claim_output
from tests.training.toy_ import EPOCHS, Run, Toy


def test_the_loss_of_every_exit_falls_and_its_f1_rises(finished: Run) -> None:
    first, last = finished.history[0], finished.history[-1]
    assert [row["epoch"] for row in finished.history] == list(range(1, EPOCHS + 1))
    assert all(late < early / 2 for early, late in zip(first["loss_per_exit"], last["loss_per_exit"], strict=True))
    assert min(last["dev_f1_per_exit"]) > 0.7 > max(first["dev_f1_per_exit"])


def test_a_run_leaves_a_model_a_figure_and_the_test_scores(finished: Run, toy: Toy) -> None:
    stored = load_model(finished.output / "model")
    assert (stored.reference, stored.config.labels, stored.config.nested) == ("toy@1", ("LOC", "PER"), False)
    assert stored.config.exits == ExitConfig("contextual", rank=8, width_buckets=4)
    assert stored.config.text == TextConfig("en", "words", window_pieces=32, overlap_pieces=8)
    assert (finished.output / "f1_per_exit.png").read_bytes().startswith(b"\x89PNG")
    scores = json.loads((finished.output / "test.json").read_text())
    assert [row["exit_layer"] for row in scores["exits"]] == [1, 2]
    assert f"| 2 | {100 * finished.best_dev_f1[1]:.2f} | {scores['exits'][1]['f1']:.2f} |" in stored.card
    assert toy.recipe.data_notice in stored.card


def test_a_killed_run_started_again_ends_with_the_very_weights_of_an_uninterrupted_one(
    toy: Toy, finished: Run, tmp_path: Path
) -> None:
    run = Run(tmp_path / "killed")
    process = toy.start(run.output)
    deadline = time.monotonic() + 120
    while not (run.output / "checkpoint.pt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    log = tmp_path / "log"
    assert 1 <= len(run.history) < EPOCHS, log.read_text()
    assert run.best_dev_f1 != finished.best_dev_f1  # the weights to be kept were still to come
    assert not (run.output / "model").exists()
    assert toy.start(run.output).wait(timeout=120) == 0, log.read_text()
    assert "resuming after epoch" in log.read_text()
    assert run.history == finished.history
    assert run.weights == finished.weights


def test_a_run_that_crashes_between_its_files_in_the_last_epoch_loses_no_epoch(
    toy: Toy, finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renames = iter(range(1, 100))
    replace_file = os.replace

    def crash_at_last(source: Path, target: Path) -> None:
        if next(renames) == 2 * EPOCHS:  # two files an epoch
            raise KeyboardInterrupt
        replace_file(source, target)

    run = Run(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash_at_last)
        with pytest.raises(KeyboardInterrupt):
            toy.train(run.output)
    toy.train(run.output)
    assert run.history == finished.history
    assert run.weights == finished.weights


def test_a_run_that_ends_within_an_epoch_goes_on_there(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def save_and_crash(state: TrainingState, output: Path, optimisation: Optimisation) -> None:
        save(state, output, optimisation)
        if state.epoch == 1 and state.step == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "PART_STEPS", 2)
    recipe, save = replace(toy.recipe, epochs=2), TrainingState.save
    whole, run = Run(tmp_path / "whole"), Run(tmp_path / "run")
    toy.train(whole.output, recipe)
    monkeypatch.setattr(loop, "SAVE_EVERY_S", 0)
    with monkeypatch.context() as patch:
        patch.setattr(TrainingState, "save", save_and_crash)
        with pytest.raises(KeyboardInterrupt):
            toy.train(run.output, recipe)
    with caplog.at_level("INFO"):
        toy.train(run.output, recipe)
    assert "resuming after epoch 1 and 4 batches" in caplog.text
    assert run.history == whole.history
    assert run.weights == whole.weights


def test_running_a_finished_run_again_changes_nothing(toy: Toy, finished: Run) -> None:
    before = finished.weights, finished.history
    toy.train(finished.output)
    assert (finished.weights, finished.history) == before


def test_another_seed_gives_other_weights(toy: Toy, finished: Run, tmp_path: Path) -> None:
    toy.train(tmp_path / "run", replace(toy.recipe, seed=2))
    assert Run(tmp_path / "run").weights != finished.weights


def test_resuming_with_another_recipe_is_refused(toy: Toy, finished: Run) -> None:
    before = finished.weights
    with pytest.raises(BadInput, match="another recipe"):
        toy.train(finished.output, replace(toy.recipe, epochs=EPOCHS + 1))
    assert finished.weights == before


def test_a_checkpoint_of_another_version_is_refused(toy: Toy, finished: Run, tmp_path: Path) -> None:
    output = tmp_path / "run"
    output.mkdir()
    (output / "run.json").write_bytes((finished.output / "run.json").read_bytes())
    torch.save({"state": {}, "model": {}}, output / "checkpoint.pt")
    with pytest.raises(BadInput, match="written by another version"):
        toy.train(output)


def test_training_stops_once_the_mean_f1_has_not_risen_for_so_many_epochs(toy: Toy, tmp_path: Path) -> None:
    still = replace(toy.recipe, encoder_rate=0.0, exit_rate=0.0, early_stopping_patience=2)
    toy.train(tmp_path / "run", still)
    assert len(Run(tmp_path / "run").history) == 3


def test_a_start_that_fails_leaves_nothing_and_the_corrected_command_runs(toy: Toy, tmp_path: Path) -> None:
    output = tmp_path / "run"
    with pytest.raises(ModelRefused, match="encodre"):
        toy.train(output, start=toy.folder / "encodre")
    for file in ("train", "dev", "test"):  # test, too: it is read after an hour, but looked for now
        with pytest.raises(DataRefused, match=r"nowhere\.conll"):
            toy.train(output, replace(toy.recipe, **{file: "nowhere.conll"}))
    assert not output.exists()
    toy.train(output, replace(toy.recipe, epochs=1))


def test_a_run_without_a_finished_epoch_gives_way_to_another(toy: Toy, tmp_path: Path) -> None:
    output = tmp_path / "run"
    claim_output(output, {"recipe": "another"})
    toy.train(output, replace(toy.recipe, epochs=1))
    assert len(Run(output).history) == 1


def test_an_output_that_cannot_be_written_is_refused_by_name(toy: Toy, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(BadInput, match=r"run cannot be written .* another --output"):
        toy.train(tmp_path / "run")


def test_a_model_that_finds_hardly_anything_comes_with_a_reason(
    toy: Toy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    toy.train(tmp_path / "run", replace(toy.recipe, batch_pieces=600, epochs=2))
    (warning,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert re.fullmatch(r"hardly anything was learned in 6 steps: try more epochs, .*batch_pieces.*", warning)


def test_a_window_longer_than_the_encoder_is_refused(toy: Toy, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="window_pieces 67 is more than the encoder's 66"):
        toy.train(tmp_path / "run", replace(toy.recipe, window_pieces=67))
