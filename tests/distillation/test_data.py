"""The data of a distillation: held-out texts stay out, gold data join, and the table is of what fits the teacher."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.data.readers import Example, read_examples
from service.distillation.data import check_count, choose_table_unit, read_gold, split_texts, write_data
from service.errors import BadInput, DataRefused
from service.spans.types import Entity
from service.text.encoder import TextConfig
from tests.tokenizers_ import bert_tokenizer, metaspace_tokenizer

TEXT = TextConfig("en", "words", 64, 16)


def labelled(count: int) -> list[Example]:
    return [Example(f"anna met bob {number}", (Entity(0, 4, "PER", 0.9),)) for number in range(count)]


def test_a_tenth_each_is_held_out_and_no_text_is_in_two_files() -> None:
    split = split_texts(labelled(200))
    assert {name: len(examples) for name, examples in split.items()} == {"train": 160, "dev": 20, "test": 20}
    assert len({example.text for examples in split.values() for example in examples}) == 200
    assert split == split_texts(labelled(200))


def test_of_many_texts_no_more_than_enough_are_held_out() -> None:
    split = split_texts(labelled(30_000))
    assert (len(split["train"]), len(split["dev"]), len(split["test"])) == (28_000, 1_000, 1_000)


def test_too_few_texts_are_refused() -> None:
    with pytest.raises(BadInput, match="99 different texts; distil from at least 100"):
        check_count(99)
    check_count(100)


def write_gold(folder: Path, label: str = "PER", but: str = "") -> Path:
    folder.mkdir()
    for name in ("train.conll", "dev.conll", "test.conll"):
        if name != but:
            (folder / name).write_text(f"zoe\tB-{label}\n{name}\tO\n", encoding="utf-8")
    return folder


def test_gold_data_join_train_and_dev_and_have_a_test_of_their_own(tmp_path: Path) -> None:
    gold = read_gold(write_gold(tmp_path / "gold"), ("LOC", "PER"))
    write_data(tmp_path / "data", split_texts(labelled(100)), gold)
    sources = {
        path.name: [example.source for example in read_examples(path)] for path in (tmp_path / "data").glob("*.jsonl")
    }
    assert sources == {
        "train.jsonl": ["texts"] * 80 + ["gold"],
        "dev.jsonl": ["texts"] * 10 + ["gold"],
        "test.jsonl": ["texts"] * 10,
        "gold_test.jsonl": ["gold"],
    }


def test_without_gold_there_is_one_source_and_no_gold_test(tmp_path: Path) -> None:
    write_data(tmp_path, split_texts(labelled(100)), {})
    assert {path.name for path in tmp_path.iterdir()} == {"train.jsonl", "dev.jsonl", "test.jsonl"}
    assert {example.source for example in read_examples(tmp_path / "train.jsonl")} == {""}


def test_gold_of_a_label_that_the_teacher_does_not_know_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"train of .*gold has labels \['GPE'\], which the teacher does not know"):
        read_gold(write_gold(tmp_path / "gold", "GPE"), ("LOC", "PER"))


def test_a_missing_file_of_gold_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises((BadInput, DataRefused), match=r"no test\.conll and no test\.jsonl"):
        read_gold(write_gold(tmp_path / "gold", but="test.conll"), ("PER",))


@pytest.mark.parametrize(("tokenizer", "unit"), [(bert_tokenizer, "words"), (metaspace_tokenizer, "pieces")])
def test_a_table_is_of_pieces_where_words_would_cut_the_teachers_entities(tokenizer: type[object], unit: str) -> None:
    examples = [Example("Anna lives in York.", (Entity(14, 18, "LOC"),))]  # ALBERT's word is `York.`
    assert choose_table_unit(tokenizer(), TEXT, examples) == unit  # type: ignore[arg-type]


def test_texts_without_entities_need_no_pieces() -> None:
    assert choose_table_unit(metaspace_tokenizer(), TEXT, [Example("Anna lives.", ())]) == "words"
