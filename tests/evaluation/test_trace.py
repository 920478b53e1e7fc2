"""Traces: what is saved comes back, without a word of the texts; tables are the model's own; the rest is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from service.data.readers import Example
from service.errors import DataRefused
from service.evaluation.trace import Trace, load_trace, save_trace, trace
from service.models.packed import pack
from service.spans.types import Entity
from tests.evaluation.traces_ import CPU, tiny_stored, traced

the_traced = cache(traced)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "folder" / "toy.trace"
    save_trace(file, the_traced().trace)
    return file


def contents(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and header of a saved trace."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["trace"])  # noqa: SIM118


def test_the_example_has_windows_several_sentences_and_a_blank_text() -> None:
    texts = the_traced().trace.texts
    assert {len(text) for text in texts} >= {0, 1, 2, 3}
    assert any(sequence.owned != (0, sequence.num_words) for text in texts for sequence in text)
    assert sum(map(len, the_traced().trace.gold)) > 50


def test_a_saved_trace_comes_back_bit_for_bit(path: Path) -> None:
    saved, loaded = the_traced().trace, load_trace(path)
    assert all(torch.equal(one, other) for one, other in zip(saved.tables, loaded.tables, strict=True))
    for name in ("model", "weights_sha256", "data", "labels", "nested", "gold", "num_layers"):
        assert getattr(loaded, name) == getattr(saved, name)
    assert [[plain(s) for s in text] for text in loaded.texts] == [[plain(s) for s in text] for text in saved.texts]


def plain(sequence: Any) -> dict[str, Any]:
    values = asdict(sequence)
    return {**values, "word_starts": values["word_starts"].tolist(), "word_ends": values["word_ends"].tolist()}


def test_a_trace_keeps_the_places_of_words_and_how_many_pieces_they_were() -> None:
    for text, of_text in zip(the_traced().texts, the_traced().trace.texts, strict=True):
        for sequence, kept in zip(text.sequences, of_text, strict=True):
            assert (kept.num_pieces, kept.owned) == (sequence.num_pieces, sequence.owned)
            assert kept.word_starts.tolist() == sequence.word_starts.tolist()
            assert kept.word_ends.tolist() == sequence.word_ends.tolist()


def test_a_trace_holds_what_model_and_data_are_called_and_the_gold() -> None:
    found = the_traced().trace
    assert (found.model, found.data, found.weights_sha256) == ("tiny@1", "toy.jsonl", "0" * 64)
    gold = [{(e.start, e.end, e.label) for e in example.entities} for example in the_traced().examples]
    assert list(found.gold) == gold


def test_a_saved_trace_holds_no_word_of_the_texts(tmp_path: Path) -> None:
    examples = [Example("Zyxomma met Qoph.", (Entity(0, 7, "PER"), Entity(12, 16, "PER")))]
    save_trace(tmp_path / "t", trace(tiny_stored(), examples, "toy.jsonl", device=CPU))
    written = (tmp_path / "t").read_bytes().lower()
    assert b"toy.jsonl" in written
    assert not any(word in written for word in (b"zyxomma", b"qoph"))


@pytest.mark.parametrize("nested", [True, False])
def test_the_tables_are_those_that_the_model_gives_every_sequence_alone(nested: bool) -> None:
    of = traced(12, nested=nested)
    sequences = [sequence for text in of.texts for sequence in text.sequences]
    counts = [s.num_words * (s.num_words + 1) // 2 for s in sequences]
    parts = zip(*(table.split(counts) for table in of.trace.tables), strict=True)
    for sequence, tables in zip(sequences, parts, strict=True):
        for table, alone in zip(tables, of.stored.model(pack([sequence], CPU)), strict=True):
            torch.testing.assert_close(table, alone, rtol=1e-5, atol=1e-5)
            assert torch.equal(table.argmax(dim=1), alone.argmax(dim=1))


def test_readings_number_sequences_as_the_texts_have_them() -> None:
    found = the_traced().trace
    assert found.readings[0].num_words == tuple(sequence.num_words for text in found.texts for sequence in text)
    assert found.text_of_sequence.tolist() == [i for i, text in enumerate(found.texts) for _ in text]
    assert found.num_pieces.tolist() == [sequence.num_pieces for text in found.texts for sequence in text]
    assert all(reading.nested for reading in found.readings)


def test_a_flat_models_trace_is_read_flat() -> None:
    assert not any(reading.nested for reading in traced(2, nested=False).trace.readings)


def test_without_splitting_a_text_is_one_sentence() -> None:
    examples = [Example("Anna met Ben. Carla works in Oslo.", ())]
    split, whole = (trace(tiny_stored(), examples, "toy", device=CPU, split=split) for split in (True, False))
    assert (len(split.sequences), len(whole.sequences)) == (2, 1)


# refusals


def refusal(path: Path) -> str:
    with pytest.raises(DataRefused) as refused:
        load_trace(path)
    assert str(path) in str(refused.value)
    return str(refused.value)


def test_texts_without_a_word_leave_no_trace() -> None:
    with pytest.raises(DataRefused, match=r"blank\.jsonl holds no words"):
        trace(tiny_stored(), [Example(" ", ())], "blank.jsonl", device=CPU)


def test_a_missing_trace_is_refused_with_how_to_make_it(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nowhere").endswith("does not exist; make it with `python -m service trace`")


def test_another_safetensors_file_is_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, tmp_path / "model.safetensors")
    assert "is no trace" in refusal(tmp_path / "model.safetensors")
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors", metadata={"trace": "[]"})
    assert "is no trace" in refusal(tmp_path / "other.safetensors")


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("word\tO\n", encoding="utf-8")
    assert "is no trace" in refusal(tmp_path / "t")


def test_a_trace_of_another_format_is_refused_with_both_formats(path: Path) -> None:
    tensors, header = contents(path)
    save_file(tensors, path, metadata={"trace": json.dumps({**header, "format": "0"})})
    assert "is a trace of format 0; expected 1: trace again" in refusal(path)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def without_a_tensor(path: Path) -> None:
    tensors, header = contents(path)
    del tensors["word_starts"]
    save_file(tensors, path, metadata={"trace": json.dumps(header)})


def without_a_field(path: Path) -> None:
    tensors, header = contents(path)
    del header["gold"]
    save_file(tensors, path, metadata={"trace": json.dumps(header)})


def without_a_word(path: Path) -> None:
    tensors, header = contents(path)
    tensors["word_ends"] = tensors["word_ends"][:-1].clone()
    save_file(tensors, path, metadata={"trace": json.dumps(header)})


@pytest.mark.parametrize("damage", [cut_short, without_a_tensor, without_a_field, without_a_word])
def test_a_damaged_trace_is_refused(path: Path, damage: Callable[[Path], None]) -> None:
    damage(path)
    assert "is no trace" in refusal(path)


def test_a_loaded_trace_can_be_saved_again(path: Path, tmp_path: Path) -> None:
    save_trace(tmp_path / "again", load_trace(path))
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    assert isinstance(load_trace(tmp_path / "again"), Trace)
