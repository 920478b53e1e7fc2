"""Numbers of samples: what is kept of one, for how long, and that they come back as they were written."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save

from service.errors import BadInput
from service.evaluation.trace import Trace
from service.exits.policies.learned import FEATURES, features
from service.promise.records import RecordBuffer, SampleRecords
from tests.evaluation.traces_ import drifting_trace

NUM_LAYERS = 4


@pytest.fixture(scope="module")
def trace() -> Trace:
    return drifting_trace(12)


def recorded(trace: Trace, most: int, count: int) -> SampleRecords:
    """Of the first sentences of a trace; the weight of each is its place, counted from 1."""
    buffer = RecordBuffer(most, NUM_LAYERS)
    readings = [reading.split() for reading in trace.readings]
    for index, sequence in enumerate(trace.sequences[:count]):
        buffer.add([of_layer[index] for of_layer in readings], sequence.owned, sequence.num_pieces, index + 1.0)
    return buffer.records()


def test_a_record_has_what_the_rule_looks_at_and_what_exits_have_in_common_with_full_depth(trace: Trace) -> None:
    count = len(trace.sequences)
    found = recorded(trace, 100, count)
    assert (len(found), found.num_layers) == (count, NUM_LAYERS)
    for layer in range(1, NUM_LAYERS):
        assert np.allclose(found.features[:, layer - 1], features(trace.readings[:layer]), rtol=1e-6)
    full = trace.readings[-1].span_sets
    for layer, reading in enumerate(trace.readings):
        assert found.correct[:, layer].tolist() == [len(a & b) for a, b in zip(reading.span_sets, full, strict=True)]
        assert found.errors[:, layer].tolist() == [len(a ^ b) for a, b in zip(reading.span_sets, full, strict=True)]
    assert found.errors[:, :-1].any() and not found.errors[:, -1].any()
    assert found.pieces.tolist() == trace.num_pieces.tolist()
    assert found.weights.tolist() == list(range(1, count + 1))


def test_an_entity_that_another_window_answers_for_is_not_counted(trace: Trace) -> None:
    index = int(np.argmax([len(spans) for spans in trace.readings[-1].span_sets]))
    buffer = RecordBuffer(1, NUM_LAYERS)
    buffer.add([reading.split()[index] for reading in trace.readings], (0, 0), 5, 1.0)
    assert not buffer.records().correct.any() and not buffer.records().errors.any()


@pytest.mark.parametrize(("count", "kept"), [(0, []), (3, [1, 2, 3]), (5, [1, 2, 3, 4, 5]), (8, [4, 5, 6, 7, 8])])
def test_the_latest_samples_are_kept_oldest_first(trace: Trace, count: int, kept: list[int]) -> None:
    assert recorded(trace, 5, count).weights.tolist() == kept


def test_where_none_are_to_be_kept_none_is(trace: Trace) -> None:
    assert len(recorded(trace, 0, 3)) == 0


def test_records_come_back_as_they_were_written(trace: Trace) -> None:
    found = recorded(trace, 5, 8)
    back = SampleRecords.from_bytes(found.to_bytes())
    for name in ("features", "correct", "errors", "pieces", "weights"):
        assert np.array_equal(getattr(back, name), getattr(found, name))
    assert len(SampleRecords.from_bytes(recorded(trace, 5, 0).to_bytes())) == 0


@pytest.mark.parametrize("change", ["nothing", "no file", "one missing", "other features"])
def test_what_is_no_file_of_records_is_refused(trace: Trace, change: str) -> None:
    found = recorded(trace, 5, 3)
    parts = {name: getattr(found, name) for name in ("features", "correct", "errors", "pieces", "weights")}
    parts |= {"other features": {"features": found.features[:, :, : len(FEATURES) - 1].copy()}}.get(change, {})
    if change == "one missing":
        del parts["errors"]
    data = {"nothing": b"", "no file": b"[1, 2, 3] and more"}.get(change) or (
        b"" if change == "nothing" else save(parts)
    )
    with pytest.raises(BadInput, match="these are no records of samples"):
        SampleRecords.from_bytes(data)
