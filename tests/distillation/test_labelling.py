"""A teacher labels as its own pipeline does, over the whole of a text; and an interrupted labelling goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from service.data.readers import read_examples
from service.distillation.labelling import AggregationStrategy, Labeller, label_texts, line_of
from service.errors import BadInput
from service.models.backbones import FAMILIES
from service.models.classifier import TokenClassifier
from service.spans.types import Entity
from tests.models.classifiers_ import BIO, SCHEMES, TEXTS, save_classifier

SHORT = [text for text in TEXTS if len(text) < 60]  # a longer one, a pipeline would cut off
Key = tuple[int, int, str]


def keys(entities: Sequence[Entity]) -> list[Key]:
    return [(entity.start, entity.end, entity.label) for entity in entities]


def labeller(folder: Path, strategy: AggregationStrategy | None = None, batch_size: int = 2) -> Labeller:
    return Labeller(TokenClassifier.read(folder), strategy, batch_size=batch_size)


@pytest.mark.parametrize("strategy", ["simple", "first", "average", "max"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
def test_every_strategy_gives_what_a_pipeline_of_the_checkpoint_gives(
    family: str, strategy: AggregationStrategy, tmp_path: Path
) -> None:
    from transformers import pipeline

    folder = save_classifier(tmp_path / "theirs", family)
    own = pipeline("ner", model=str(folder), tokenizer=str(folder), aggregation_strategy=strategy)
    expected = []
    for text in SHORT:
        found = [(entity["start"], entity["end"], entity["entity_group"]) for entity in own(text)]
        inner = [
            (start + len(text[start:end]) - len(text[start:end].lstrip()), end, label) for start, end, label in found
        ]
        expected.append([(start, end, label) for start, end, label in inner if start < end])
    assert [keys(found) for found in labeller(folder, strategy)(SHORT)] == expected
    assert sum(map(len, expected)) >= len(SHORT)
    for text, found in zip(SHORT, expected, strict=True):
        assert all(text[start:end] == text[start:end].strip() != "" for start, end, _ in found)


def test_bioes_entities_come_whole_which_a_pipeline_alone_would_cut(tmp_path: Path) -> None:
    from transformers import pipeline

    folder = save_classifier(tmp_path / "theirs", "bert", SCHEMES["BIOES"])
    cut = pipeline("ner", model=str(folder), tokenizer=str(folder), aggregation_strategy="first")
    found = labeller(folder)(TEXTS)
    assert sum(map(len, found)) < sum(len(cut(text)) for text in TEXTS)
    assert {entity.label for of_text in found for entity in of_text} <= {"PER", "LOC"}


def test_a_text_longer_than_the_encoder_reads_is_labelled_to_its_end(teacher: Path) -> None:
    text = " ".join(["Anna lives in Rome ."] * 40)  # 200 words and more pieces; the encoder reads 66
    (found,) = labeller(teacher)([text])
    assert [text[entity.start : entity.end] for entity in found] == ["Anna", "Rome"] * 40


def test_where_a_tokenizer_knows_words_first_is_what_a_labeller_takes(tmp_path: Path) -> None:
    strategies = {family: labeller(save_classifier(tmp_path / family, family)).strategy for family in FAMILIES}
    assert strategies == {
        **dict.fromkeys(("bert", "electra", "distilbert", "mpnet"), "first"),
        **dict.fromkeys(("roberta", "albert"), "simple"),
    }


def test_labels_are_written_as_lines_that_training_reads(teacher: Path, texts: list[str], tmp_path: Path) -> None:
    output = tmp_path / "labelled.jsonl"
    found = label_texts(labeller(teacher), texts[:10], output)
    read = read_examples(output)
    assert [(e.text, keys(e.entities)) for e in read] == [(e.text, keys(e.entities)) for e in found]
    assert [e.text for e in read] == texts[:10]
    assert sum(len(example.entities) for example in found) > 5


def test_an_interrupted_labelling_goes_on_and_labels_nothing_twice(
    teacher: Path, texts: list[str], tmp_path: Path
) -> None:
    whole, output = tmp_path / "whole.jsonl", tmp_path / "labelled.jsonl"
    expected = label_texts(labeller(teacher), texts[:12], whole)
    lines = whole.read_bytes().splitlines(keepends=True)
    label_texts(labeller(teacher), texts[:7], output)
    output.write_bytes(output.read_bytes() + lines[7][:20])  # killed within a line
    asked: list[str] = []
    resumed = labeller(teacher)
    label = resumed.__call__

    class Counting:
        folder, strategy, batch_size = resumed.folder, resumed.strategy, resumed.batch_size

        def __call__(self, some: Sequence[str]) -> list[list[Entity]]:
            asked.extend(some)
            return label(some)

    found = label_texts(Counting(), texts[:12], output)  # type: ignore[arg-type]
    assert asked == texts[7:12]
    assert [(e.text, keys(e.entities)) for e in found] == [(e.text, keys(e.entities)) for e in expected]
    assert output.read_bytes().splitlines()[:7] == [line.strip() for line in lines[:7]]


def test_labels_of_another_teacher_or_way_or_of_other_texts_are_not_gone_on_with(
    teacher: Path, texts: list[str], tmp_path: Path
) -> None:
    output = tmp_path / "labelled.jsonl"
    label_texts(labeller(teacher), texts[:3], output)
    before = output.read_bytes()
    with pytest.raises(BadInput, match=r"labelled in another way .* another --output"):
        label_texts(labeller(teacher, "average"), texts[:3], output)
    with pytest.raises(BadInput, match="labelled in another way"):
        label_texts(labeller(save_classifier(tmp_path / "other", names=BIO)), texts[:3], output)
    with pytest.raises(BadInput, match="labels of other texts"):
        label_texts(labeller(teacher), texts[1:3], output)
    assert output.read_bytes() == before


def test_a_line_keeps_scores_and_says_where_it_is_from_only_if_that_is_known(teacher: Path, tmp_path: Path) -> None:
    (example,) = label_texts(labeller(teacher), ["Anna lives in Rome ."], tmp_path / "labelled.jsonl")
    record = json.loads(line_of(example))
    assert record.keys() == {"text", "entities"}
    assert [entity["label"] for entity in record["entities"]] == ["PER", "LOC"]
    assert all(0.5 < entity["score"] <= 1 for entity in record["entities"])
