"""Scores of every exit, against counts made by hand on scripted exits, and against a real model's own answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest

from service.data.readers import Example
from service.evaluation import evaluate as module
from service.evaluation.evaluate import Evaluation, ExitScore, encode_examples, evaluate
from service.evaluation.predict import decode_every_exit, entities_at_every_exit
from service.evaluation.tables import format_evaluation
from service.spans.score import Score, keys
from service.spans.types import Entity
from service.stepping.every_exit import run_to_full_depth
from service.text.encoder import TextConfig, TextEncoder
from tests.models_ import TEXTS, eager, random_sequences, tiny_config, tiny_model, tiny_text_encoder
from tests.tokenizers_ import bert_tokenizer

FLAT, NESTED = "Anna works in Oslo.", "University of Paris"
EXAMPLES = [
    Example(FLAT, (Entity(0, 4, "PER"), Entity(14, 18, "LOC"))),
    Example(NESTED, (Entity(0, 19, "ORG"), Entity(14, 19, "LOC"))),
]
# per exit, per text
SCRIPT = [
    [[Entity(0, 4, "PER", 0.9), Entity(14, 18, "ORG", 0.6)], [Entity(0, 19, "ORG", 0.5)]],
    [
        [Entity(0, 4, "PER"), Entity(14, 18, "LOC")],
        [Entity(0, 19, "ORG"), Entity(14, 19, "LOC"), Entity(0, 10, "PER")],
    ],
]


def run(examples: Sequence[Example], *, split: bool = True) -> Evaluation:
    return evaluate(eager(tiny_model(tiny_config(num_layers=2))), tiny_text_encoder(), examples, split=split)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Evaluation:
    monkeypatch.setattr(module, "entities_at_every_exit", lambda *_, **__: SCRIPT)
    return run(EXAMPLES)


# counted by hand


def test_every_exit_has_the_micro_counts_of_its_own_entities(scripted: Evaluation) -> None:
    first, second = (exit_.micro for exit_ in scripted.exits)
    assert (first.gold, first.found, first.correct) == (4, 3, 2)
    assert (second.gold, second.found, second.correct) == (4, 5, 4)
    assert scripted.f1 == [pytest.approx(4 / 7), pytest.approx(8 / 9)]


def test_labels_are_counted_apart(scripted: Evaluation) -> None:
    assert scripted.exits[0].by_label == {"LOC": Score(2, 0, 0), "ORG": Score(1, 2, 1), "PER": Score(1, 1, 1)}
    assert scripted.exits[1].by_label == {"LOC": Score(2, 2, 2), "ORG": Score(1, 1, 1), "PER": Score(1, 2, 1)}


def test_nested_and_outermost_entities_are_counted_apart(scripted: Evaluation) -> None:
    assert [exit_.nested for exit_ in scripted.exits] == [Score(1, 0, 0), Score(1, 2, 1)]
    assert [exit_.outermost for exit_ in scripted.exits] == [Score(3, 3, 2), Score(3, 3, 3)]


def test_nested_and_outermost_gold_add_up_to_all_gold(scripted: Evaluation) -> None:
    for exit_ in scripted.exits:
        assert exit_.nested.gold + exit_.outermost.gold == exit_.micro.gold == scripted.gold


def test_the_json_holds_every_exit_in_percent_and_survives_json(scripted: Evaluation) -> None:
    document = json.loads(json.dumps(scripted.to_json()))
    assert {key: value for key, value in document.items() if key != "exits"} == {
        "texts": 2,
        "sequences": 2,
        "gold_entities": 4,
        "gold_entities_lost_by_splitting_or_windows": 0,
    }
    first, second = document["exits"]
    counts = {"f1": 57.14, "precision": 66.67, "recall": 50.0, "gold": 4, "found": 3, "correct": 2}
    assert {key: first[key] for key in counts} == counts
    assert [first["exit_layer"], second["exit_layer"]] == [1, 2]
    assert first["outermost"]["f1"] == 66.67
    assert second["nested"] == {"f1": 66.67, "precision": 50.0, "recall": 100.0, "gold": 1, "found": 2, "correct": 1}
    assert list(second["labels"]) == ["LOC", "ORG", "PER"]
    assert second["labels"]["PER"]["precision"] == 50.0


def test_the_table_has_one_row_an_exit_and_one_block_of_labels_an_exit(scripted: Evaluation) -> None:
    lines = format_evaluation("tiny@1", "toy.conll", scripted).splitlines()
    assert "tiny@1 on toy.conll: 2 texts, 2 sequences, 4 gold entities" in lines[0]
    assert [line.split() for line in lines if line[:4].strip().isdigit()] == [
        ["1", "57.14", "66.67", "50.00", "|", "66.67", "0.00"],
        ["2", "88.89", "80.00", "100.00", "|", "100.00", "66.67"],
    ]
    assert [line.split(",")[0] for line in lines if "per label" in line] == ["exit 1", "exit 2"]
    assert [line.split() for line in lines if line.startswith("  LOC")] == [
        ["LOC", "0.00", "0.00", "0.00", "2"],
        ["LOC", "100.00", "100.00", "100.00", "2"],
    ]


def test_the_table_shows_a_dash_where_nothing_is_nested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "entities_at_every_exit", lambda *_, **__: [[SCRIPT[1][0]]])
    (row,) = (line for line in format_evaluation("m", "f", run(EXAMPLES[:1])).splitlines() if line[:4].strip() == "1")
    assert row.split() == ["1", "100.00", "100.00", "100.00", "|", "100.00", "-"]


# entities out of reach


def entity(text: str, name: str, label: str = "PER") -> Entity:
    return Entity(text.index(name), text.index(name) + len(name), label)


def test_an_entity_across_two_sentences_is_lost_and_missed_by_every_exit() -> None:
    text = "Ben met Carla. Anna works."
    example = Example(text, (entity(text, "Ben"), entity(text, "Carla. Anna")))
    result = run([example])
    assert (result.lost, result.gold, result.sequences) == (1, 2, 2)
    assert all(exit_.micro.gold == 2 and exit_.micro.correct <= 1 for exit_ in result.exits)
    whole = run([example], split=False)
    assert (whole.lost, whole.gold, whole.sequences) == (0, 2, 1)


def test_an_entity_that_ends_within_a_word_is_lost() -> None:
    text = "Carla met Ben."
    assert run([Example(text, (entity(text, "Carl"), entity(text, "arla"), entity(text, "Ben")))]).lost == 2


def test_an_entity_longer_than_the_overlap_of_two_windows_is_lost_and_a_short_one_is_not() -> None:
    text = " ".join(["anna", "ben"] * 20)
    config = TextConfig(window_pieces=22, overlap_pieces=4)
    text_encoder = tiny_text_encoder(tiny_config(text=config))
    gold = (Entity(0, len(text), "PER"), *(Entity(start, start + 8, "PER") for start in range(0, len(text), 9)))
    result = evaluate(eager(tiny_model(tiny_config(text=config))), text_encoder, [Example(text, gold)])
    assert (result.lost, result.gold) == (1, 21)


def test_a_label_the_model_does_not_know_is_missed_but_not_called_lost() -> None:
    result = run([Example(FLAT, (Entity(0, 4, "ANIMAL"),))])
    assert (result.gold, result.lost) == (1, 0)
    assert all(exit_.by_label["ANIMAL"] == Score(1, 0, 0) for exit_ in result.exits)


def test_a_blank_text_has_no_sequences_and_no_entities() -> None:
    result = run([Example("  ", ()), *EXAMPLES])
    assert (result.texts, result.sequences) == (3, 2)


# a real model


def test_against_its_own_answers_an_exit_scores_one_and_so_does_who_answers_the_same() -> None:
    executor, text_encoder = eager(), tiny_text_encoder()
    blank = [Example(text, ()) for text in (*TEXTS, " ".join(TEXTS))]
    answers = entities_at_every_exit(executor, text_encoder, encode_examples(text_encoder, blank))
    said = [[keys(found) for found in of_texts] for of_texts in answers]
    for layer, of_texts in enumerate(answers):
        examples = [Example(example.text, tuple(found)) for example, found in zip(blank, of_texts, strict=True)]
        result = evaluate(executor, text_encoder, examples)
        assert result.exits[layer].micro.gold > 0
        assert result.f1[layer] == 1.0
        assert [f1 == 1.0 for f1 in result.f1] == [other == said[layer] for other in said]
        assert result.lost == 0
    assert said[0] != said[-1]


@pytest.mark.parametrize("nested", [True, False])
def test_sequences_in_one_batch_decode_to_the_spans_they_get_alone(nested: bool) -> None:
    executor, sequences = eager(tiny_model(tiny_config(nested=nested))), random_sequences([9, 1, 4, 17, 4, 2, 30])
    together = decode_every_exit(executor, sequences)
    assert len(together) == executor.config.num_layers
    for (index,), readings in run_to_full_depth(executor, sequences, max_pieces=1):
        for exit_spans, reading in zip(together, readings, strict=True):
            (alone,) = reading.spans
            assert [span[:3] for span in exit_spans[index]] == [span[:3] for span in alone]
            assert [span.score for span in exit_spans[index]] == pytest.approx([span.score for span in alone], abs=1e-5)


def test_entities_come_back_in_the_order_of_the_texts() -> None:
    executor, text_encoder = eager(), tiny_text_encoder()
    for text, *found in zip(
        TEXTS, *entities_at_every_exit(executor, text_encoder, text_encoder.encode_batch(TEXTS)), strict=True
    ):
        alone = entities_at_every_exit(executor, text_encoder, [text_encoder.encode(text)])
        for entities, (same,) in zip(found, alone, strict=True):
            assert [(e.start, e.end, e.label) for e in entities] == [(e.start, e.end, e.label) for e in same]


def test_outermost_and_nested_add_up_and_an_inner_entity_counts_without_its_outer_one() -> None:
    outer, inside, apart = Entity(0, 9, "PER"), Entity(4, 9, "LOC"), Entity(20, 25, "ORG")
    wrong_inside = Entity(21, 22, "LOC")
    scores = ExitScore()
    scores.add([outer, inside, apart], [inside, apart, wrong_inside])
    assert scores.nested == Score(gold=1, found=2, correct=1)
    assert scores.outermost == Score(gold=2, found=1, correct=1)
    assert scores.nested + scores.outermost == scores.micro


def test_a_model_of_chinese_reads_every_character_as_a_word() -> None:
    tokenizer = bert_tokenizer()
    config = tiny_config(text=TextConfig(language="zh", window_pieces=64, overlap_pieces=16), nested=False)
    config = replace(config, encoder=replace(config.encoder, vocab_size=tokenizer.get_vocab_size()))
    text_encoder = TextEncoder(tokenizer, config.text, config.labels, nested=False)
    text = "他们在北京大学。我在上海"
    encoded = text_encoder.encode(text)
    words = [text[s:e] for seq in encoded.sequences for s, e in zip(seq.word_starts, seq.word_ends, strict=True)]
    assert "".join(words) == text
    assert [len(sequence.word_starts) for sequence in encoded.sequences] == [8, 4]
    every_exit = entities_at_every_exit(eager(tiny_model(config, seed=2)), text_encoder, [encoded])
    entities = [entity for (of_exit,) in every_exit for entity in of_exit]
    assert entities
    assert all(0 <= entity.start < entity.end <= len(text) for entity in entities)
