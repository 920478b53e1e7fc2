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
from tokenizers.processors import TemplateProcessing

from service.errors import ModelRefused
from service.models.checkpoint import load_checkpoint
from service.models.store import load_model, write_checksums
from tests.models_ import save_bert_checkpoint, save_tiny_model

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


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Of a Transformers token classifier, which can be served as it is."""
    folder = save_bert_checkpoint(tmp_path / "classifier", num_hidden_layers=1)
    weights = load_file(folder / "model.safetensors")
    hidden = weights["embeddings.word_embeddings.weight"].shape[1]
    head = {"classifier.weight": torch.zeros(3, hidden), "classifier.bias": torch.zeros(3)}
    save_file({**weights, **head}, folder / "model.safetensors", metadata={"format": "pt"})
    describe(folder, architectures=["BertForTokenClassification"], id2label={0: "O", 1: "B-PER", 2: "I-PER"})
    return folder


def describe(folder: Path, **fields: object) -> None:
    """Change a checkpoint's config.json."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))


def test_a_checkpoint_without_harm_is_served(checkpoint: Path) -> None:
    (checkpoint / "pytorch_model.bin").touch()
    os.truncate(checkpoint / "pytorch_model.bin", 2**40)  # which is nobody's business
    (checkpoint / ".git").mkdir()
    assert load_model(checkpoint).config.labels == ("PER",)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "vocab.txt", "chat_template.jinja", "odd"])
def test_a_pipe_in_a_checkpoint_is_refused_by_name(checkpoint: Path, name: str) -> None:
    (checkpoint / name).unlink(missing_ok=True)
    os.mkfifo(checkpoint / name)
    assert name in refusal(checkpoint)


def test_a_pipe_among_the_templates_of_a_checkpoint_is_refused_by_name(checkpoint: Path) -> None:
    (checkpoint / "additional_chat_templates").mkdir()
    os.mkfifo(checkpoint / "additional_chat_templates" / "a.jinja")
    assert "a.jinja" in refusal(checkpoint)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "vocab.txt", "model.safetensors"])
def test_a_sparse_terabyte_in_a_checkpoint_is_refused_by_name_unread(checkpoint: Path, name: str) -> None:
    (checkpoint / name).touch()
    os.truncate(checkpoint / name, 2**40)
    said = refusal(checkpoint)
    assert name in said and f"has {2**40} bytes" in said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_hidden_layers", 10**9),
        ("num_hidden_layers", "one"),
        ("hidden_size", 0),
        ("hidden_size", [6]),
        ("max_position_embeddings", "many"),
        ("vocab_size", 10**12),
        ("num_attention_heads", 0),
        ("hidden_act", {}),
        ("layer_norm_eps", "small"),
        ("architectures", 5),
        ("architectures", [[]]),
        ("id2label", 5),
        ("id2label", {"a": "O"}),
        ("id2label", {str(number): f"B-{number}" for number in range(5_000)}),
        ("auto_map", {"AutoConfig": "run_this.Config"}),
        ("model_type", 7),
    ],
    ids=str,
)
def test_an_odd_value_in_the_config_of_a_checkpoint_is_refused_or_passed_over(
    checkpoint: Path, name: str, value: object
) -> None:
    (checkpoint / "run_this.py").write_text("raise SystemExit(7)")
    describe(checkpoint, **{name: value})
    if name == "auto_map":  # its own code is never run, and Transformers knows the model without it
        assert load_model(checkpoint).config.labels == ("PER",)
    else:
        assert str(checkpoint) in refusal(checkpoint)


def test_a_checkpoint_that_brings_code_for_its_model_is_refused_and_nobody_is_asked_to_run_it(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*_: object) -> str:
        raise AssertionError("somebody was asked")

    monkeypatch.setattr("builtins.input", ask)
    (checkpoint / "run_this.py").write_text("raise SystemExit(7)")
    describe(checkpoint, model_type="mine", auto_map={"AutoConfig": "run_this.Config"})
    assert str(checkpoint) in refusal(checkpoint)


def test_a_checkpoint_whose_tokenizer_puts_unknown_ids_around_a_text_is_refused(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_checkpoint(checkpoint)
    around = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 100_000), ("[SEP]", 3)])
    loaded.tokenizer.post_processor = around
    monkeypatch.setattr("service.models.classifier.load_checkpoint", lambda _: loaded)
    assert "its tokenizer has 100001 pieces" in refusal(checkpoint)
