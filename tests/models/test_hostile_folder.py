"""Model folders that were made to harm: every one is refused, by name, at once and before much was read."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from service.errors import ModelRefused
from service.models.store import load_model, write_checksums
from tests.models_ import save_tiny_model

FILES = ("config.json", "checksums.json", "card.md", "tokenizer.json", "model.safetensors", "operating_points.json")
SOON_S = 10.0  # of the processor; a terabyte takes a hundred times as long


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny_model(tmp_path / "tiny" / "1")


def edit(folder: Path, name: str, change: Callable[[Any], object]) -> None:
    """Change a JSON file, and give the folder checksums that fit."""
    document = json.loads((folder / name).read_text())
    change(document)
    (folder / name).write_text(json.dumps(document))
    if name != "checksums.json":
        write_checksums(folder)


def refusal(folder: Path) -> str:
    """What is said of a folder, soon."""
    started = time.process_time()
    with pytest.raises(ModelRefused) as error:
        load_model(folder)
    assert time.process_time() - started < SOON_S
    return str(error.value)


@pytest.mark.parametrize("name", FILES[:-1])
def test_a_pipe_in_the_place_of_a_file_is_refused_by_name(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert name in refusal(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_sparse_terabyte_is_refused_by_name_unread(folder: Path, name: str) -> None:
    (folder / name).touch()
    edit(folder, "checksums.json", lambda sums: sums.update({name: "0" * 64}) if name != "checksums.json" else None)
    os.truncate(folder / name, 2**40)
    said = refusal(folder)
    assert name in said and f"has {2**40} bytes" in said


def test_a_terabyte_that_only_the_checksums_name_is_refused_too(folder: Path) -> None:
    edit(folder, "checksums.json", lambda sums: sums.update({"extra": "0" * 64}))
    (folder / "extra").touch()
    os.truncate(folder / "extra", 2**40)
    assert "extra has" in refusal(folder)


@pytest.mark.parametrize("name", ["../1/card.md", "/etc/passwd", "a/b", "..", ""])
def test_a_name_outside_the_folder_is_refused_unread(folder: Path, name: str) -> None:
    edit(folder, "checksums.json", lambda sums: sums.update({name: "0" * 64}))
    assert repr(name) in refusal(folder) or f"{folder / name} " in refusal(folder)


@pytest.mark.parametrize("name", ["config.json", "checksums.json", "tokenizer.json", "operating_points.json"])
def test_json_that_is_nested_too_deeply_is_refused_by_file(folder: Path, name: str) -> None:
    (folder / name).write_text("[" * 200_000 + "]" * 200_000)
    if name != "checksums.json":
        write_checksums(folder)
    assert name in refusal(folder)


def test_a_card_that_is_no_text_is_refused(folder: Path) -> None:
    (folder / "card.md").write_bytes(b"\xff\xfe")
    write_checksums(folder)
    assert "card.md cannot be read" in refusal(folder)


@pytest.mark.parametrize("value", [0, -1, 2**31, 10**30, 1.5, 6.0, True, "6", None, [6]])
@pytest.mark.parametrize(
    "place",
    [
        *("encoder.vocab_size", "encoder.hidden_size", "encoder.num_layers", "encoder.num_heads"),
        *("encoder.max_positions", "encoder.intermediate_size", "encoder.embedding_size", "exits.rank"),
        "text.window_pieces",
    ],
)
def test_a_size_that_no_model_has_is_refused_by_name(folder: Path, place: str, value: object) -> None:
    part, name = place.split(".")
    edit(folder, "config.json", lambda config: config[part].update({name: value}))
    assert f"{place} is " in refusal(folder)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("name", "../../x"),
        ("name", ""),
        ("name", "a" * 65),
        ("name", 7),
        ("version", "1/2"),
        ("version", ".."),
        ("labels", "PER"),
        ("labels", []),
        ("labels", ["PER", "PER"]),
        ("labels", [1]),
        ("labels", ["a\nb"]),
        ("labels", ["a" * 101]),
        ("nested", "yes"),
        ("word_shapes", 1),
        ("encoder", "bert"),
        ("encoder", None),
        ("text", [1, 2]),
    ],
)
def test_what_is_of_the_wrong_kind_is_refused(folder: Path, place: str, value: object) -> None:
    edit(folder, "config.json", lambda config: config.update({place: value}))
    assert "config.json" in refusal(folder)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("encoder.position_offset", -1),
        ("encoder.type_vocab_size", 10**9),
        ("encoder.layer_norm_eps", 0.0),
        ("encoder.layer_norm_eps", float("nan")),
        ("exits.reach", 10**9),
        ("exits.width_buckets", -1),
        ("text.overlap_pieces", -1),
    ],
)
def test_an_odd_number_is_refused_by_name(folder: Path, place: str, value: object) -> None:
    part, name = place.split(".")
    edit(folder, "config.json", lambda config: config[part].update({name: value}))
    assert f"{place} is " in refusal(folder)


def test_a_model_of_more_weights_than_any_of_ours_is_refused_before_they_are_read(folder: Path) -> None:
    sizes = {"hidden_size": 16_384, "embedding_size": 16_384, "intermediate_size": 65_536, "num_layers": 128}
    edit(folder, "config.json", lambda config: config["encoder"].update(sizes))
    assert "expected at most 1000000000" in refusal(folder)


def test_a_tokenizer_whose_ids_have_no_row_in_the_model_is_refused(folder: Path) -> None:
    def add(tokenizer: Any) -> None:
        tokenizer["model"]["vocab"]["beyond"] = 10**6

    edit(folder, "tokenizer.json", add)
    said = refusal(folder)
    assert "tokenizer.json gives pieces ids of up to 1000000" in said and "vocab_size" in said


def test_a_tokenizer_whose_special_ids_have_no_row_in_the_model_is_refused(folder: Path) -> None:
    edit(folder, "tokenizer.json", lambda tokenizer: tokenizer["post_processor"].update({"cls": ["[CLS]", 10**6]}))
    assert "tokenizer.json gives pieces ids of up to 1000000" in refusal(folder)


@pytest.mark.parametrize(("value", "said"), [(float("nan"), "not finite"), (float("inf"), "not finite")])
def test_weights_that_are_no_numbers_are_refused_by_name(folder: Path, value: float, said: str) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["exits.1.bias"][0, 0] = value
    save_file(weights, folder / "model.safetensors")
    write_checksums(folder)
    assert said in refusal(folder) and "exits.1.bias" in refusal(folder)


def test_weights_of_another_kind_are_refused_by_name(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["exits.1.bias"] = weights["exits.1.bias"].to(torch.int64)
    save_file(weights, folder / "model.safetensors")
    write_checksums(folder)
    assert "exits.1.bias: expected (16, 3), given (16, 3) of integers" in refusal(folder)
