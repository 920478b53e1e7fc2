"""Strategies that are run, not replayed: from the command line on a model that was trained for them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from service.assets import assets_of
from service.evaluation.run_policy import evaluate_policy
from service.evaluation.sweep import families_to_run
from service.evaluation.sweep_runs import time_shares
from service.exits.assets import ModelAssets
from service.exits.operating_points import Calibration
from service.exits.policies.de3 import De3
from service.exits.policies.full_depth import FullDepth
from service.exits.policies.tokee import HaltingTraining, Tokee
from service.models.store import load_model
from tests.evaluation.conftest import NUM_LAYERS, OnDisk
from tests.evaluation.traces_ import tiny_examples, tiny_stored
from tests.models_ import eager, save_tiny_model, tiny_config


@pytest.fixture(scope="module")
def of_words(uncalibrated: OnDisk, tmp_path_factory: pytest.TempPathFactory) -> OnDisk:
    """The tiny model, as if trained with halting words and prototypes."""
    store = tmp_path_factory.mktemp("store")
    config = replace(tiny_config(num_layers=NUM_LAYERS), halting=True, prototypes=True)
    save_tiny_model(store / "tiny" / "1", config)
    with pytest.MonkeyPatch.context() as patch:
        for strategy, name, grid in (
            (Tokee, "tau", (0.2, 0.5, 0.7)),
            (Tokee, "window", (1, 3)),
            (De3, "tau", (0.3, 0.6)),
            (De3, "weight", (1.0,)),
        ):
            declared = strategy.parameters()
            patch.setitem(declared, name, replace(declared[name], grid=grid))
        made = OnDisk(store, uncalibrated.dev, uncalibrated.test)
        assert made.run("calibrate", "tiny", made.dev, "--device", "cpu") == 0
    return made


def test_a_model_is_swept_for_what_it_was_trained_for() -> None:
    assert families_to_run(ModelAssets(4)) == {}
    (family,) = families_to_run(ModelAssets(4, assets=(HaltingTraining(),))).values()
    assert {type(policy) for policy in family.members(())} == {Tokee}


def test_calibration_keeps_the_front_of_what_was_run_and_a_default(of_words: OnDisk) -> None:
    stored = load_model(of_words.model)
    assert stored.operating_points is not None
    assets = assets_of(stored.model)
    calibration = Calibration.from_json(stored.operating_points, assets)
    found = [point for point in calibration.others if point.parameters["strategy"] == "tokee"]
    catalog = calibration.catalog(assets)
    assert found and {point.parameters["strategy"] for point in calibration.others} >= {"tokee", "de3", "vee"}
    for point in found:
        policy = catalog.policy(point.parameters)
        assert calibration.expected(policy) == point.expected()
        examples = tiny_examples(stored, 30, seed=30, sentence_words=(4, 6, 9))
        run = evaluate_policy(eager(stored.model), stored.text_encoder, examples, policy)
        assert point.f1 == pytest.approx(100 * run.micro.f1, abs=0.3)  # int8 here, float32 there
        assert point.speedup_latency > 0 and 1 <= point.average_exit_layer <= NUM_LAYERS
    default = catalog.policy({"strategy": "tokee"})
    assert default.to_json() == found[-1].parameters


def test_one_of_them_can_be_evaluated_and_reported(
    of_words: OnDisk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = '{"strategy": "tokee", "tau": 0.5, "window": 1}'
    assert of_words.run("evaluate", "tiny", of_words.test, "--exit-policy", policy, "--device", "cpu") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["strategy"] == "tokee" and 1 <= said["average_layers_by_word"] <= NUM_LAYERS
    arguments = ["report", f"tiny={of_words.dev},{of_words.test}", "--output", tmp_path, "--device", "cpu"]
    assert of_words.run(*arguments) == 0
    page = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "| tokee tau" in page and "| de3 tau" in page


def test_a_model_with_a_hash_is_not_calibrated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "store"
    save_tiny_model(store / "tiny" / "1", replace(tiny_config(), hash="frequency", buckets=2))
    assert OnDisk(store, tmp_path, tmp_path).run("calibrate", "tiny", tmp_path / "x.jsonl") == 2
    assert "leaves nothing to calibrate" in capsys.readouterr().err


def test_time_is_a_share_of_full_depths() -> None:
    stored = tiny_stored(tiny_config())
    examples = tiny_examples(stored, 6, seed=1, sentence_words=(4, 6))
    texts = stored.text_encoder.encode_batch([example.text for example in examples])
    sequences = [sequence for text in texts for sequence in text.sequences]
    policy = Tokee(tau=1.0, window=1)
    shares = time_shares(eager(stored.model), [policy], sequences)
    assert shares[FullDepth()] == 1.0 and shares[policy] > 0
