"""Traces: what is saved comes back, without a word of the texts; it is the executor's own word; the rest is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from service.data.readers import Example
from service.errors import DataRefused
from service.evaluation.replay import Replayer
from service.evaluation.trace import Trace, load_trace, save_trace, trace
from service.exits.candidates import Candidates
from service.exits.policies.branchynet import BranchyNet
from service.exits.policies.budgeted import Budgeted
from service.models.packed import pack
from service.spans.table import SUMMARY, num_cells
from service.spans.types import Entity, FloatArray
from tests.evaluation.traces_ import WINDOWED, Traced, drifting_trace, tiny_examples, tiny_stored, traced
from tests.executors.executors_ import fused, kernel_config, kernel_model, readings_of
from tests.models_ import eager

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


@pytest.mark.parametrize("change", [0.0, 0.25])
def test_a_saved_trace_comes_back_with_its_own_summaries_and_candidates(tmp_path: Path, change: float) -> None:
    found = the_traced().trace
    saved = replace(
        found,
        summaries=tuple(summary + change for summary in found.summaries),  # not what the tables would give
        candidates=tuple(replace(one, cells=one.cells - change) for one in found.candidates),
    )
    save_trace(tmp_path / "t", saved)
    loaded = load_trace(tmp_path / "t")
    assert sum(len(one.cells) for one in saved.candidates) > 100
    for one, other in zip(saved.summaries, loaded.summaries, strict=True):
        assert other.dtype == np.float64 and other.tolist() == one.tolist()
    for mine, yours in zip(saved.candidates, loaded.candidates, strict=True):
        assert yours.counts == mine.counts
        assert yours.cells.dtype == np.float32 and yours.cells.tolist() == mine.cells.tolist()


def test_exits_without_a_candidate_come_back_too(tmp_path: Path) -> None:
    found = the_traced().trace
    nothing = Candidates((0,) * len(found.sequences), np.empty((0, 4), dtype=np.float32))
    save_trace(tmp_path / "t", replace(found, candidates=(nothing,) * found.num_layers))
    loaded = load_trace(tmp_path / "t")
    assert [one.counts for one in loaded.candidates] == [nothing.counts] * found.num_layers
    assert not any(span for reading in loaded.readings for spans in reading.spans for span in spans)


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
    save_trace(tmp_path / "t", trace(tiny_stored(), examples, "toy.jsonl", eager()))
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
        for table, alone in zip(tables, of.stored.model(pack([sequence], torch.device("cpu"))), strict=True):
            torch.testing.assert_close(table, alone, rtol=1e-5, atol=1e-5)
            assert torch.equal(table.argmax(dim=1), alone.argmax(dim=1))


Kept = tuple[str, list[float], str]  # of one exit on one sequence: bits of the table, summary, bits of the candidates


def bits(array: FloatArray) -> str:
    return sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def kept(found: Trace) -> list[list[Kept]]:
    """[layer - 1][sequence]"""
    cells = [num_cells(sequence.num_words) for sequence in found.sequences]
    tables = [[bits(own.numpy()) for own in table.split(cells)] for table in found.tables]
    summaries = [summary.tolist() for summary in found.summaries]
    candidates = [[bits(own) for own in said.split()] for said in found.candidates]
    return [list(zip(*of_exit, strict=True)) for of_exit in zip(tables, summaries, candidates, strict=True)]


def test_tables_summaries_and_candidates_are_those_that_kernels_give_every_sequence_alone() -> None:
    config = replace(kernel_config(), text=WINDOWED)
    stored = tiny_stored(config, kernel_model(config))
    with fused(stored.model) as executor:
        of = Traced(stored, [Example(" ", ()), *tiny_examples(stored, 12)], executor)
        alone = [readings_of(executor, [sequence]) for text in of.texts for sequence in text.sequences]
        assert sorted(of.trace.num_pieces.tolist()) != of.trace.num_pieces.tolist()  # batches go by length
    for layer, of_sequences in enumerate(kept(of.trace)):
        said = [of_layers[layer] for of_layers in alone]
        assert of_sequences == [
            (bits(one.table.numpy()), one.summary[0].tolist(), bits(one.candidates.cells)) for one in said
        ]


def test_what_is_not_kept_is_worked_out_from_the_tables() -> None:
    found = the_traced().trace
    bare = replace(found, summaries=(), candidates=())
    for one, other in zip(bare.readings, found.readings, strict=True):
        assert one.span_sets == other.span_sets
        np.testing.assert_allclose(one.summary, other.summary, rtol=1e-5, atol=1e-5)


def test_a_replay_decides_by_the_summaries_that_were_kept() -> None:
    found = the_traced().trace
    column, changed = SUMMARY.index("entropy_mean"), found.summaries[0].copy()
    policy = BranchyNet(tau=float(np.median(changed[:, column])))
    before = Replayer(found).replay(policy).layers_run.tolist()
    left, stayed = before.index(1), next(index for index, layer in enumerate(before) if layer > 1)
    changed[[left, stayed], column] = 1.0, 0.0
    after = Replayer(replace(found, summaries=(changed, *found.summaries[1:]))).replay(policy).layers_run.tolist()
    assert after[left] > 1 and after[stayed] == 1
    others = [index for index in range(len(before)) if index not in (left, stayed)]
    assert [after[index] for index in others] == [before[index] for index in others]


def test_a_replay_answers_by_the_candidates_that_were_kept() -> None:
    found = drifting_trace(20)
    said = [reading.candidates for reading in found.readings]
    one = Replayer(replace(found, candidates=tuple(said)))
    other = Replayer(replace(found, candidates=(said[-1], *said[1:])))  # the first exit says what the last does
    for replayer in (one, other):
        assert replayer.replay(Budgeted(4)).micro == Replayer(found).replay(Budgeted(4)).micro
    assert one.replay(Budgeted(1)).micro == Replayer(found).replay(Budgeted(1)).micro != one.replay(Budgeted(4)).micro
    assert other.replay(Budgeted(1)).micro == other.replay(Budgeted(4)).micro


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
    split, whole = (trace(tiny_stored(), examples, "toy", eager(), split=split) for split in (True, False))
    assert (len(split.sequences), len(whole.sequences)) == (2, 1)


# refusals


def refusal(path: Path) -> str:
    with pytest.raises(DataRefused) as refused:
        load_trace(path)
    assert str(path) in str(refused.value)
    return str(refused.value)


def test_texts_without_a_word_leave_no_trace() -> None:
    with pytest.raises(DataRefused, match=r"blank\.jsonl holds no words"):
        trace(tiny_stored(), [Example(" ", ())], "blank.jsonl", eager())


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
    assert "is a trace of format 0; expected 3: trace again" in refusal(path)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def without_a_tensor(path: Path) -> None:
    tensors, header = contents(path)
    del tensors["word_starts"]
    save_file(tensors, path, metadata={"trace": json.dumps(header)})


def without_a_summary(path: Path) -> None:
    tensors, header = contents(path)
    del tensors["summary.2"]
    save_file(tensors, path, metadata={"trace": json.dumps(header)})


def without_candidates(path: Path) -> None:
    tensors, header = contents(path)
    del tensors["candidates.4"]
    save_file(tensors, path, metadata={"trace": json.dumps(header)})


def without_a_field(path: Path) -> None:
    tensors, header = contents(path)
    del header["gold"]
    save_file(tensors, path, metadata={"trace": json.dumps(header)})


def without_a_word(path: Path) -> None:
    tensors, header = contents(path)
    tensors["word_ends"] = tensors["word_ends"][:-1].clone()
    save_file(tensors, path, metadata={"trace": json.dumps(header)})


DAMAGES = [cut_short, without_a_tensor, without_a_summary, without_candidates, without_a_field, without_a_word]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_trace_is_refused(path: Path, damage: Callable[[Path], None]) -> None:
    damage(path)
    assert "is no trace" in refusal(path)


def test_a_loaded_trace_can_be_saved_again(path: Path, tmp_path: Path) -> None:
    save_trace(tmp_path / "again", load_trace(path))
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    assert isinstance(load_trace(tmp_path / "again"), Trace)
