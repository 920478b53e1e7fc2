"""The data and the recipe of `docs/your-own-model.md`: what its command makes, and what it shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.tickets import FILES, NAMES, main
from service.data.readers import Example, read_examples
from service.training.recipe import read_recipe
from tests.docs.pages_ import PAGES, PROJECT

PAGE = next(page for page in PAGES if page.name == "docs/your-own-model.md")
RECIPE = PROJECT / "examples" / "tickets.toml"


@pytest.fixture
def data(tmp_path: Path) -> dict[str, list[Example]]:
    assert main([str(tmp_path / "my-data")]) == 0
    recipe = read_recipe(RECIPE)
    files = {"train": recipe.train, "dev": recipe.dev, "test": recipe.test}
    return {name: read_examples(tmp_path / "my-data" / file) for name, file in files.items()}


def test_the_recipe_on_the_page_is_the_file_that_its_command_names() -> None:
    assert RECIPE.read_text(encoding="utf-8") in [block.text for block in PAGE.blocks]


def test_every_file_has_as_many_sentences_as_the_page_says_and_every_label(data: dict[str, list[Example]]) -> None:
    assert {name: len(examples) for name, examples in data.items()} == FILES
    assert "{train}, {dev} and {test} sentences".format_map(FILES) in PAGE.text.replace("\n", " ")
    for examples in data.values():
        assert {entity.label for example in examples for entity in example.entities} == NAMES.keys()


def test_no_sentence_is_in_two_files_or_twice_in_one(data: dict[str, list[Example]]) -> None:
    texts = [example.text for examples in data.values() for example in examples]
    assert len(set(texts)) == len(texts)


def test_the_other_files_have_names_that_train_has_not(data: dict[str, list[Example]]) -> None:
    train, dev = (
        {example.text[entity.start : entity.end] for example in data[name] for entity in example.entities}
        for name in ("train", "dev")
    )
    assert len(dev - train) > len(dev) / 5


def test_made_twice_the_data_are_the_same(data: dict[str, list[Example]], tmp_path: Path) -> None:
    main([str(tmp_path / "again")])
    assert read_examples(tmp_path / "again" / "train.conll") == data["train"]


def test_without_a_folder_the_command_says_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: python -m examples.tickets FOLDER" in capsys.readouterr().err
