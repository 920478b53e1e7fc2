"""Models on disk: what is saved comes back, what is amiss is refused by name, a crash leaves the old model in place."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from service.errors import ModelRefused
from service.models import store as store_module
from service.models.config import ExitConfig, ModelConfig
from service.models.packed import pack
from service.models.store import (
    find_model,
    list_models,
    list_versions,
    load_model,
    save_model,
    write_checksums,
    write_operating_points,
)
from service.text.encoder import TextConfig
from tests.exits.calibrations_ import CALIBRATION, put_calibration
from tests.models_ import TEXTS, random_sequences, save_tiny_model, tiny_config, tiny_model, tiny_tokenizer

CONFIGS = [
    tiny_config(),
    tiny_config(
        num_layers=2, nested=False, labels=["A"], exits=ExitConfig("full", reach=0, width_buckets=0), word_shapes=False
    ),
    tiny_config(text=TextConfig("de", "pieces", window_pieces=32, overlap_pieces=4), name="x-y", version="10"),
]


class CrashError(Exception):
    """Stands for the process ending there and then."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny_model(tmp_path / "store" / "tiny" / "1")


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


# what is saved comes back


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name + config.exits.form)
def test_a_loaded_model_is_the_saved_one(config: ModelConfig, tmp_path: Path) -> None:
    stored = load_model(save_tiny_model(tmp_path / "m", config))
    assert stored.config == config
    assert stored.reference == f"{config.name}@{config.version}"
    assert stored.card.startswith("# ")
    saved = tiny_model(config).state_dict()  # float16 values, held in float32
    assert stored.model.state_dict().keys() == saved.keys()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in stored.model.state_dict().items())


@pytest.mark.parametrize("relative_bias", [False, True])
def test_a_loaded_model_says_what_the_saved_one_said(relative_bias: bool, tmp_path: Path) -> None:
    config = tiny_config()
    config = replace(config, encoder=replace(config.encoder, relative_bias=relative_bias))
    packed = pack(random_sequences([4, 7]), torch.device("cpu"))
    loaded = load_model(save_tiny_model(tmp_path / "m", config)).model
    pairs = zip(loaded(packed), tiny_model(config)(packed), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_a_loaded_text_path_cuts_as_the_saved_one(folder: Path) -> None:
    for text in TEXTS:
        (sequence,) = load_model(folder).text_encoder.encode(text).sequences
        assert sequence.piece_ids.tolist() == tiny_tokenizer().encode(text).ids


def test_a_loaded_model_is_ready_for_inference_in_float32(folder: Path) -> None:
    model = load_model(folder).model
    assert not any(module.training for module in model.modules())
    for parameter in model.parameters():
        assert (parameter.dtype, parameter.device.type, parameter.requires_grad) == (torch.float32, "cpu", False)


def test_weights_are_rounded_to_float16_by_saving(tmp_path: Path) -> None:
    model = tiny_model()
    model.exits[0].bias.fill_(1 / 3)
    save_model(tmp_path / "m", model, tiny_tokenizer(), "card")
    assert load_model(tmp_path / "m").model.exits[0].bias[0, 0] == torch.tensor(1 / 3).half().float()
    assert all(tensor.dtype == torch.float16 for tensor in load_file(tmp_path / "m" / "model.safetensors").values())


def test_a_model_folder_holds_no_pickle(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "card.md", "checksums.json"}
    assert not any(path.read_bytes()[:1] == b"\x80" or path.read_bytes()[:2] == b"PK" for path in folder.iterdir())


def test_a_config_survives_json(tmp_path: Path) -> None:
    for config in CONFIGS:
        assert ModelConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_saving_again_replaces_the_folder_whole(folder: Path) -> None:
    (folder / "leftover.txt").write_text("of the old model")
    save_tiny_model(folder, seed=1)
    assert not (folder / "leftover.txt").exists()
    assert seed_of(folder) == 1
    assert [path.name for path in folder.parent.iterdir()] == ["1"]


def test_a_card_edited_with_new_checksums_loads(folder: Path) -> None:
    (folder / "card.md").write_text("# Edited")
    with pytest.raises(ModelRefused, match=r"card\.md"):
        load_model(folder)
    write_checksums(folder)
    assert load_model(folder).card == "# Edited"


# what is amiss is refused by name


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "card.md", "checksums.json"])
def test_a_missing_file_is_refused_by_name(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelRefused, match=name):
        load_model(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "card.md"])
def test_a_single_flipped_bit_is_refused_by_file(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ModelRefused, match=name):
        load_model(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "checksums.json"])
def test_a_file_of_another_kind_is_refused_by_name_though_its_checksum_is_right(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"not what it says")
    if name != "checksums.json":
        write_checksums(folder)
    with pytest.raises(ModelRefused, match=name):
        load_model(folder)


@pytest.mark.parametrize("content", ["[]", "3", '"config.json"'])
@pytest.mark.parametrize("name", ["config.json", "checksums.json"])
def test_json_that_is_no_object_is_refused_by_file(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(ModelRefused, match=name):
        load_model(folder)


@pytest.mark.parametrize("part", [None, "encoder", "exits", "text"])
def test_an_unknown_config_field_is_refused_by_name(folder: Path, part: str | None) -> None:
    edit_json(folder / "config.json", lambda config: (config[part] if part else config).update(colour=3))
    write_checksums(folder)
    with pytest.raises(ModelRefused, match="colour"):
        load_model(folder)


@pytest.mark.parametrize("field", ["labels", "nested", "name", "encoder"])
def test_a_missing_config_field_is_refused_by_name(folder: Path, field: str) -> None:
    edit_json(folder / "config.json", lambda config: config.pop(field))
    write_checksums(folder)
    with pytest.raises(ModelRefused, match=field):
        load_model(folder)


def test_a_weight_of_another_shape_is_refused_by_name(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["exits.2.bias"] = torch.zeros(16, 7)
    save_file(weights, folder / "model.safetensors")
    write_checksums(folder)
    with pytest.raises(ModelRefused, match=r"exits\.2\.bias: expected \(16, 3\), given \(16, 7\)"):
        load_model(folder)


def test_a_missing_and_a_surplus_weight_are_refused_by_name(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    bias = weights.pop("exits.1.bias")
    save_file(weights, folder / "model.safetensors")
    write_checksums(folder)
    with pytest.raises(ModelRefused, match=r"exits\.1\.bias.*given none"):
        load_model(folder)
    save_file({**weights, "exits.1.bias": bias, "exits.9.bias": bias.clone()}, folder / "model.safetensors")
    write_checksums(folder)
    with pytest.raises(ModelRefused, match=r"exits\.9\.bias: expected none"):
        load_model(folder)


def test_weights_that_do_not_fit_an_edited_config_are_refused(folder: Path) -> None:
    edit_json(folder / "config.json", lambda config: config["labels"].append("MISC"))
    write_checksums(folder)
    with pytest.raises(ModelRefused, match=r"exits\.0\.bias"):
        load_model(folder)


# operating points


def test_a_model_that_was_not_calibrated_has_no_operating_points(folder: Path) -> None:
    assert load_model(folder).operating_points is None


def test_operating_points_written_into_a_folder_are_loaded_and_covered_by_its_checksums(folder: Path) -> None:
    before = load_model(folder)
    stored = load_model(put_calibration(folder))
    assert stored.operating_points is not None and stored.weights_sha256 == before.weights_sha256
    assert stored.operating_points.pop("provenance")["weights_sha256"] == stored.weights_sha256
    written = {name: value for name, value in CALIBRATION.to_json().items() if name != "provenance"}
    assert stored.operating_points == json.loads(json.dumps(written))
    assert {path.name for path in folder.iterdir()} - {"checksums.json"} == json.loads(
        (folder / "checksums.json").read_text()
    ).keys()


def test_operating_points_written_again_replace_the_earlier_ones(folder: Path) -> None:
    points = load_model(put_calibration(folder)).operating_points or {}
    write_operating_points(folder, points | {"points": []})
    assert load_model(folder).operating_points == points | {"points": []}


def test_saving_a_model_again_drops_the_operating_points_of_the_old_one(folder: Path) -> None:
    save_tiny_model(put_calibration(folder), seed=1)
    assert load_model(folder).operating_points is None


def test_operating_points_of_other_weights_are_refused(folder: Path) -> None:
    points = load_model(put_calibration(folder)).operating_points or {}
    write_operating_points(save_tiny_model(folder, seed=1), points)
    with pytest.raises(ModelRefused, match=r"operating_points\.json was measured on other weights .*calibrate"):
        load_model(folder)


def test_operating_points_that_were_changed_by_hand_are_refused_by_checksum(folder: Path) -> None:
    edit_json(put_calibration(folder) / "operating_points.json", lambda stored: stored["points"].clear())
    with pytest.raises(ModelRefused, match=r"operating_points\.json is not the file that"):
        load_model(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "3", "{}", '{"provenance": {}}', '{"provenance": 3}'])
def test_operating_points_that_cannot_be_read_are_refused(folder: Path, content: str) -> None:
    (folder / "operating_points.json").write_text(content)
    write_checksums(folder)
    with pytest.raises(ModelRefused, match=r"operating_points\.json cannot be read: .*calibrate"):
        load_model(folder)


def test_a_crash_while_writing_operating_points_leaves_the_earlier_ones(folder: Path) -> None:
    before = load_model(put_calibration(folder)).operating_points
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", crash)
        with pytest.raises(CrashError):
            write_operating_points(folder, {})
    assert load_model(folder).operating_points == before


# a crash leaves the old model in place


def crash(*_: object, **__: object) -> None:
    raise CrashError


def save_with(place: object, name: str, stand_in: Callable[..., None], folder: Path) -> None:
    """Save a model of seed 1 while `place.name` is `stand_in`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, name, stand_in)
        save_tiny_model(folder, seed=1)


def seed_of(folder: Path) -> int:
    """Which tiny model the folder holds."""
    bias = load_model(folder).model.exits[0].bias
    return next(seed for seed in range(3) if torch.equal(bias, tiny_model(seed=seed).exits[0].bias))


@pytest.mark.parametrize("step", ["save_file", "write_checksums", "_sha256"])
def test_a_crash_while_writing_leaves_the_old_model(folder: Path, step: str) -> None:
    with pytest.raises(CrashError):
        save_with(store_module, step, crash, folder)
    assert seed_of(folder) == 0


@pytest.mark.parametrize("failing", [1, 2])
def test_a_failed_rename_leaves_the_old_model(folder: Path, failing: int) -> None:
    renames = 0
    replace = os.replace

    def fail_once(source: Path, target: Path) -> None:
        nonlocal renames
        renames += 1
        if renames == failing:
            raise OSError("no space left")
        replace(source, target)

    with pytest.raises(OSError, match="no space left"):
        save_with(os, "replace", fail_once, folder)
    assert seed_of(folder) == 0


def test_a_half_written_version_is_neither_listed_nor_found(folder: Path) -> None:
    with pytest.raises(CrashError):
        save_with(os, "replace", crash, folder.with_name("2"))
    store = folder.parent.parent
    assert list_models(store) == ["tiny@1"]
    assert find_model("tiny", store) == folder


def test_saving_succeeds_after_a_crash(folder: Path) -> None:
    with pytest.raises(CrashError):
        save_with(store_module, "write_checksums", crash, folder)
    save_tiny_model(folder, seed=2)
    assert seed_of(folder) == 2
    assert [path.name for path in folder.parent.iterdir()] == ["1"]


# finding


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Folders with an empty config.json, which is all that finding looks at."""
    folder = tmp_path / "store"
    for name, version in (("a", "2"), ("a", "10"), ("a", "9"), ("b", "beta"), ("b", "1")):
        (folder / name / version).mkdir(parents=True)
        (folder / name / version / "config.json").write_text("{}")
    (folder / "a" / "99").mkdir()  # no config: no model
    (folder / "notes.txt").write_text("no folder")
    outside = tmp_path / "outside" / "1"
    outside.mkdir(parents=True)
    (outside / "config.json").write_text("{}")
    return folder


def test_a_model_is_found_by_its_folder(store: Path) -> None:
    assert find_model(str(store / "a" / "2"), store / "elsewhere") == store / "a" / "2"


def test_a_name_means_its_newest_version_and_ten_is_newer_than_two(store: Path) -> None:
    assert find_model("a", store) == store / "a" / "10"
    assert list_versions(store / "a") == ["2", "9", "10"]


def test_a_name_with_a_version_means_that_version(store: Path) -> None:
    assert find_model("a@2", store) == store / "a" / "2"
    assert find_model("b@beta", store) == store / "b" / "beta"


@pytest.mark.parametrize("reference", ["c", "a@3", "a@99", "@2", "", "@", "notes.txt"])
def test_an_unknown_reference_is_refused_with_what_there_is(store: Path, reference: str) -> None:
    with pytest.raises(ModelRefused) as refused:
        find_model(reference, store)
    assert repr(reference) in str(refused.value)
    assert "['a@2', 'a@9', 'a@10', 'b@1', 'b@beta']" in str(refused.value)


@pytest.mark.parametrize(
    "reference", ["../outside", "../outside@1", "a/../a", "..", "..@store", ".", "a@../b/1", "a/2"]
)
def test_a_reference_cannot_leave_the_store(store: Path, reference: str) -> None:
    (store / "config.json").write_text("{}")
    with pytest.raises(ModelRefused, match="no model"):
        find_model(reference, store)


def test_a_store_that_does_not_exist_is_empty(tmp_path: Path) -> None:
    assert list_models(tmp_path / "none") == []
    with pytest.raises(ModelRefused, match=r"one of \[\]"):
        find_model("a", tmp_path / "none")
