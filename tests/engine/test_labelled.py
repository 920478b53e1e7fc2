"""Labelled sentences run in idle time to full depth; too many are refused, and a run that fails costs itself alone."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from queue import Queue

import pytest

from service.engine import labelled as labelled_module
from service.engine.labelled import Labelled, LabelledRuns
from service.engine.sequence import Sequence
from service.errors import NotReady, Overloaded, TooLarge
from service.exits.reading import Reading
from tests.engine.scripted_ import DEADLINE_S, ScriptedStepper, make_engine, scripted_input, scripted_request

RIGHT = frozenset({(0, 1, 1)})


class Told:
    """What was reported, from the engine's thread."""

    def __init__(self) -> None:
        self._found: Queue[Labelled] = Queue()

    def __call__(self, _: Seq[Reading], one: Labelled) -> None:
        self._found.put(one)

    def next(self) -> Labelled:
        return self._found.get(timeout=DEADLINE_S)


def sentence(num_pieces: int = 3) -> Labelled:
    return Labelled(scripted_input(2, num_pieces), RIGHT)


def test_labelled_sentences_run_to_full_depth_behind_all_requests() -> None:
    told, runner = Told(), ScriptedStepper()
    engine = make_engine(runner, labelled=LabelledRuns(told))
    first, second, request = sentence(4), sentence(5), scripted_request(2, num_pieces=7)
    engine.submit_labelled([first, second])
    engine.submit(request)
    engine.start()
    assert [told.next(), told.next()] == [first, second]
    engine.close()
    steps = [(layer, sequences[0].input.num_pieces) for layer, sequences in runner.steps]
    assert steps == [
        *((layer, 7) for layer in (1, 2)),
        *((layer, pieces) for pieces in (4, 5) for layer in range(1, 5)),
    ]


def test_an_engine_that_rests_is_woken_by_a_labelled_sentence() -> None:
    told = Told()
    engine = make_engine(ScriptedStepper(), labelled=LabelledRuns(told))
    engine.start()
    engine.submit_labelled([one := sentence()])
    assert told.next() is one
    engine.close()


def test_more_than_there_is_room_for_is_refused_all_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    runs, one = LabelledRuns(Told()), sentence()
    monkeypatch.setattr(labelled_module, "MOST_BYTES", 3 * one.num_bytes)
    runs.add([one, one])
    with pytest.raises(Overloaded, match=r"2 sentences .* wait for idle time already") as refused:
        runs.add([one, one])
    assert runs.waiting == 2 and refused.value.retry_after_s > 0
    with pytest.raises(TooLarge, match="the limit is"):
        LabelledRuns(Told()).add([one] * 4)
    runs.add([one])


def test_room_is_free_again_once_a_sentence_has_begun_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    told, one = Told(), sentence()
    monkeypatch.setattr(labelled_module, "MOST_BYTES", one.num_bytes)
    runs = LabelledRuns(told)
    engine = make_engine(ScriptedStepper(), labelled=runs)
    engine.start()
    for _ in range(3):
        engine.submit_labelled([one])
        assert told.next() is one
    engine.close()


def test_a_run_that_fails_is_dropped_and_the_next_one_runs() -> None:
    def fail_once(layer: int, sequences: Seq[Sequence]) -> None:
        if layer == 2 and sequences[0].input.num_pieces == 4:
            raise RuntimeError("out of memory")

    told = Told()
    engine = make_engine(ScriptedStepper(on_step=fail_once), labelled=LabelledRuns(told))
    engine.submit_labelled([sentence(4), good := sentence(5)])
    engine.start()
    assert told.next() is good
    engine.close()


def test_an_engine_without_labelled_runs_takes_none() -> None:
    with pytest.raises(NotReady, match="not taken here"):
        make_engine(ScriptedStepper()).submit_labelled([sentence()])
