"""The models that ship: the fused executor finds the same entities at the last exit as the eager one."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from service.executors import fused as fused_module
from service.executors.executor import Executor
from service.executors.quantized import quantize
from service.models.store import StoredModel, find_model, load_model
from service.spans.types import Entity
from tests.executors.executors_ import fused
from tests.models_ import eager

STORE = Path(__file__).resolve().parents[2] / "model_store"
NEWS = (
    "Angela Merkel met Barack Obama in Berlin.",
    "Siemens is opening an office in New York.",
    "Maria Rossi works in Geneva for the United Nations.",
    "Ajax beat Juventus 2-1 in Amsterdam on Wednesday.",
    "The Bank of England raised rates, said Reuters.",
    "Japan's Sony and the Dutch group Philips signed an agreement in Tokyo.",
    "Nobody answered.",
    "Zinedine Zidane scored twice for France against Brazil at the World Cup.",
    "The European Commission rejected a German proposal to ban British beef.",
    "Tennis: Steffi Graf defeated Monica Seles in the final of the U.S. Open in September.",
)
FICTION = (
    "The captain of the ship walked to the old house by the river.",
    "Mr. Bennet was among the earliest of those who waited on Mr. Bingley.",
    "She took the carriage from London to the village where her mother lived.",
)
load = cache(lambda name: load_model(find_model(name, STORE)))  # for tests that do not change it


def last_entities(executor: Executor, stored: StoredModel, texts: tuple[str, ...]) -> list[list[Entity]]:
    """Of every text, all sequences of all texts in one step a layer."""
    encoded = stored.text_encoder.encode_batch(texts)
    inputs = [sequence for text in encoded for sequence in text.sequences]
    states = [None] * len(inputs)
    for layer in range(1, executor.config.num_layers + 1):
        is_last = layer == executor.config.num_layers
        states, reading = executor.run_layer(layer, inputs, states, with_exit=is_last, with_table=False)
    assert reading is not None
    spans = iter(reading.spans)
    return [stored.text_encoder.entities(text, [next(spans) for _ in text.sequences]) for text in encoded]


@cache
def expected_entities(name: str, texts: tuple[str, ...]) -> list[list[Entity]]:
    """Those of the eager executor."""
    return last_entities(eager(load(name).model), load(name), texts)


@pytest.mark.parametrize("adds_in_words", [False, True], ids=["", "room for pairs"])
@pytest.mark.parametrize(
    ("name", "texts"), [("conll2003-minilm", NEWS), ("general-minilm-research", NEWS), ("litbank-minilm", FICTION)]
)
def test_entities_at_the_last_exit_are_those_of_the_eager_executor(
    name: str, texts: tuple[str, ...], adds_in_words: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if adds_in_words:  # as with AVX2 alone
        monkeypatch.setattr(fused_module, "quantize", lambda model, **_: quantize(model, adds_in_words=True))
    stored, expected = load(name), expected_entities(name, texts)
    assert sum(map(len, expected)) > 2 * len(texts)
    with fused(stored.model, threads=2) as executor:
        found = last_entities(executor, stored, texts)
    for text, own, other in zip(texts, found, expected, strict=True):
        assert [replace(one, score=1.0) for one in own] == [replace(one, score=1.0) for one in other], text
        assert [one.score for one in own] == pytest.approx([one.score for one in other], abs=0.1), text
