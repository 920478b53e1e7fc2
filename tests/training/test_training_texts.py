"""What an epoch shows of several corpora, and the file that is gathered of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from service.data.corpora import Corpus
from service.data.readers import read_examples
from service.errors import BadInput
from service.models.store import load_model
from service.training.gather import CHANGED, gather
from service.training.recipe import Augmentation, Recipe, read_recipe
from service.training.texts import TrainingTexts
from tests.models_ import tiny_text_encoder
from tests.training.toy_ import Run, Toy

CORPORA = """
[[corpora]]
name = "people"
train = "train.conll"
dev = "dev.conll"
test = "test.conll"
annotated = ["PER"]
ignored = ["LOC"]
weight = 0.5

[[corpora]]
name = "places"
train = "train.conll"
dev = "dev.conll"
test = "test.conll"
annotated = ["LOC"]
no_entities = ["PER"]
credit = "Made up, CC0"

[augmentation]
lower = 0.3
titles = 0.5
items = 0.2
joined = 0.3
"""


@pytest.fixture
def recipe(toy: Toy, tmp_path: Path) -> Recipe:
    """The toy recipe with two corpora in place of one."""
    lines = (toy.folder / "toy.toml").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not line.startswith(("train", "dev", "test"))]
    path = tmp_path / "two.toml"
    path.write_text("\n".join([*kept, CORPORA]), encoding="utf-8")
    return read_recipe(path)


def texts(toy: Toy, recipe: Recipe) -> TrainingTexts:
    corpora = [corpus.read(toy.folder / corpus.train) for corpus in recipe.sources]
    return TrainingTexts(recipe, tiny_text_encoder(), corpora, ("LOC", "PER"))


def test_an_epoch_shows_of_every_corpus_what_its_weight_says(toy: Toy, recipe: Recipe) -> None:
    plain = replace(recipe, augmentation=Augmentation())
    sequences = texts(toy, plain).epoch(1)
    people = [sequence for sequence in sequences if sequence.unannotated == {1}]
    places = [sequence for sequence in sequences if sequence.unannotated == {2}]
    assert (len(people), len(places)) == (80, 160)
    assert {span.label for sequence in people for span in sequence.gold} == {2}
    assert any(sequence.ignored for sequence in people) and not any(sequence.ignored for sequence in places)


def test_an_epoch_depends_on_its_number_and_the_seed_alone(toy: Toy, recipe: Recipe) -> None:
    def shown(recipe: Recipe, epoch: int) -> list[list[int]]:
        return [sequence.input.piece_ids.tolist() for sequence in texts(toy, recipe).epoch(epoch)]

    assert shown(recipe, 2) == shown(recipe, 2)
    assert shown(recipe, 2) != shown(recipe, 3)
    assert shown(recipe, 2) != shown(replace(recipe, seed=7), 2)


def test_a_model_learns_from_corpora_that_annotate_different_labels(toy: Toy, recipe: Recipe, tmp_path: Path) -> None:
    toy.train(tmp_path / "run", recipe)
    assert min(Run(tmp_path / "run").best_dev_f1) > 0.6
    stored = load_model(tmp_path / "run" / "model")
    assert stored.config.labels == ("LOC", "PER")
    assert "- `places`: Made up, CC0" in stored.card
    assert "| people | " in stored.card and "| mean of the corpora | " in stored.card
    assert json.loads((tmp_path / "run" / "test.json").read_text()).keys() == {"people", "places"}


def test_gathered_texts_keep_their_source_and_what_is_annotated(toy: Toy, recipe: Recipe, tmp_path: Path) -> None:
    path = gather(recipe, toy.folder, "dev", 10, tmp_path / "deep" / "dev.jsonl")
    examples = read_examples(path)
    of = {name: [e for e in examples if e.source == name] for name in ("people", "places", CHANGED)}
    assert (len(of["people"]), len(of["places"])) == (10, 10) and len(of[CHANGED]) >= 10
    assert {e.annotation.labels for e in of["people"]} == {frozenset({"PER"})}
    dev = {example.text: example for example in Corpus("", "", "").read(toy.folder / "dev.conll")}
    for example in of["places"]:
        assert example.entities == tuple(e for e in dev[example.text].entities if e.label == "LOC")
    assert path.read_bytes() == gather(recipe, toy.folder, "dev", 10, tmp_path / "again.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": "a.conll"}, "either train, dev and test, or corpora"),
        ({"corpora": ()}, "either train, dev and test, or corpora"),
        ({"halting": True}, "one corpus of weight 1, and no augmentation"),
        ({"augmentation": Augmentation(lower=2.0)}, r"augmentation\.lower is 2\.0"),
        ({"corpora": (Corpus("a", "b", "c", weight=0),)}, "weight"),
        ({"corpora": (Corpus("a", "b", "c"), Corpus("d", "e", "f"))}, "a name of its own"),
        ({"corpora": (Corpus("a", "b", ""),)}, "train, dev and test"),
    ],
)
def test_recipes_of_corpora_that_cannot_be(recipe: Recipe, change: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        replace(recipe, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[augmentation]\nlowercase = 1", "unknown fields .'lowercase'"),
        ("[augmentation]\nlower = 'x'", "lower = 'x', expected float"),
        ("[[corpora]]\nannotated = 'PER'", "annotated = 'PER'"),
        ("[[corpora]]\nlabels = ['PER']", "labels = "),
        ("[corpora]\ntrain = 'a'", "corpora"),
    ],
)
def test_a_table_of_a_recipe_with_a_wrong_field_is_refused_by_name(
    toy: Toy, tmp_path: Path, line: str, message: str
) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text((toy.folder / "toy.toml").read_text(encoding="utf-8") + line, encoding="utf-8")
    with pytest.raises(BadInput, match=message):
        read_recipe(path)


def test_an_override_of_one_rate_keeps_the_others(toy: Toy, recipe: Recipe, tmp_path: Path) -> None:
    changed = read_recipe(tmp_path / "two.toml", {"augmentation": {"lower": 0.9}})
    assert changed.augmentation == replace(recipe.augmentation, lower=0.9)
