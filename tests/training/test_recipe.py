"""Recipes: a wrong field is refused by name, before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import service.training
from service.__main__ import main
from service.errors import BadInput
from service.training.recipe import Recipe, read_recipe

NEEDED = 'name = "toy"\nversion = "1"\ntrain = "a.conll"\ndev = "b.conll"\ntest = "c.conll"\nnested = false\n'
SHIPPED = sorted((Path(service.training.__file__).parent / "recipes").glob("*.toml"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "toy.toml"
    file.write_text(NEEDED + 'encoder_name = "a BERT"\ndata_notice = "made up"\n', encoding="utf-8")
    return file


def add(path: Path, line: str) -> Path:
    path.write_text(path.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    return path


def test_what_a_recipe_leaves_out_has_its_default(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe == Recipe("toy", "1", False, "a BERT", "made up", "a.conll", "b.conll", "c.conll")
    assert (recipe.exit_form, recipe.exit_weights, recipe.early_stopping_patience) == ("contextual", "linear", 8)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_recipe_reads_and_bears_the_name_of_its_file(path: Path) -> None:
    assert read_recipe(path).name == path.stem


def test_overrides_win_over_the_file(path: Path) -> None:
    assert read_recipe(add(path, "epochs = 3"), {"epochs": 5, "exit_rate": 1}).epochs == 5


CORPUS = '[[corpora]]\nname = "own"\ntrain = "a.conll"\ndev = "b.conll"\ntest = "c.conll"\n'


@pytest.mark.parametrize("base", ["shipped", "beside"])
def test_a_recipe_replaces_what_it_says_of_the_one_that_it_extends_and_adds_its_corpora(
    tmp_path: Path, base: str
) -> None:
    shipped = next(path for path in SHIPPED if path.stem == "general-minilm")
    extended = read_recipe(shipped)
    if base == "beside":
        (tmp_path / "base.toml").write_text(shipped.read_text(encoding="utf-8"), encoding="utf-8")
    path = tmp_path / "mine.toml"
    name = "base" if base == "beside" else "general-minilm"
    own = f'extends = "{name}"\nname = "mine"\n[augmentation]\ntypos = 0.9\n{CORPUS}'
    path.write_text(own, encoding="utf-8")
    recipe = read_recipe(path)
    assert (recipe.name, recipe.epochs, recipe.window_pieces) == ("mine", extended.epochs, extended.window_pieces)
    assert recipe.augmentation == replace(extended.augmentation, typos=0.9)
    assert recipe.corpora[:-1] == extended.corpora
    assert recipe.corpora[-1].name == "own"


def test_a_recipe_that_extends_itself_or_nothing_is_refused(tmp_path: Path) -> None:
    path, other = tmp_path / "one.toml", tmp_path / "other.toml"
    path.write_text('extends = "other"\n', encoding="utf-8")
    other.write_text('extends = "one"\n', encoding="utf-8")
    with pytest.raises(BadInput, match="extends itself by way of"):
        read_recipe(path)
    path.write_text('extends = "nowhere"\n', encoding="utf-8")
    with pytest.raises(BadInput, match="nowhere"):
        read_recipe(path)


def test_an_unknown_field_is_refused_by_name_with_the_known_ones(path: Path) -> None:
    with pytest.raises(BadInput, match=r"unknown fields \['epoch'\]; known are .*'epochs'"):
        read_recipe(add(path, "epoch = 3"))
    with pytest.raises(BadInput, match="learning_rate"):
        read_recipe(path, {"learning_rate": 1e-4})


def test_a_missing_field_is_refused_by_name(path: Path) -> None:
    path.write_text(NEEDED, encoding="utf-8")
    with pytest.raises(BadInput, match="data_notice"):
        read_recipe(path)


@pytest.mark.parametrize(
    "line",
    [
        "epochs = 2.5",
        "epochs = true",
        'epochs = "3"',
        'exit_rate = "fast"',
        "exit_rate = false",
        "language = 3",
        "word_shapes = 1",
        "word_shapes = []",
        "exit_reach = 1.5",
        'exit_form = "half"',
        'exit_weights = "square"',
        'table_unit = "letters"',
        "table_unit = ['words']",
    ],
)
def test_a_value_of_the_wrong_type_or_none_of_the_choices_is_refused_by_field(path: Path, line: str) -> None:
    with pytest.raises(BadInput, match=f"{line.split()[0]} = .*, expected"):
        read_recipe(add(path, line))


@pytest.mark.parametrize(
    "line",
    [
        "warmup = 1.0",
        "hidden_dropout = -0.1",
        "attention_dropout = 1",
        "exit_dropout = 2",
        "case_noise = 1.5",
        "piece_masking = nan",
        "epochs = 0",
        "early_stopping_patience = 0",
        "batch_pieces = -1",
        "overlap_pieces = 254",
        "exit_reach = -1",
    ],
)
def test_a_value_out_of_range_is_refused_by_field(path: Path, line: str) -> None:
    with pytest.raises(BadInput, match=line.split()[0]):
        read_recipe(add(path, line))


def test_every_wrong_field_is_named_at_once(path: Path) -> None:
    with pytest.raises(BadInput, match=r"epochs = .*; language = "):
        read_recipe(path, {"epochs": "3", "language": 4})


def test_a_file_that_is_missing_or_no_toml_is_refused_by_path(path: Path) -> None:
    with pytest.raises(BadInput, match="no-such-recipe"):
        read_recipe(path.with_name("no-such-recipe"))
    with pytest.raises(BadInput, match=r"toy\.toml"):
        read_recipe(add(path, "epochs = = 3"))


@pytest.fixture
def threads_restored() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads_restored")
@pytest.mark.parametrize("change", ["epoch=3", "epochs=0", 'epochs="3"', "epochs==3"])
def test_on_the_command_line_a_wrong_field_is_one_line_and_code_2(
    path: Path, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [f"--{name}={path.parent / name}" for name in ("encoder", "data", "output")]
    assert main(["train", str(path), *folders, "--set", change]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "epoch" in said
    assert said.count("\n") == 1
    assert not (path.parent / "output").exists()


@pytest.mark.usefixtures("threads_restored")
def test_the_command_that_a_card_tells_of_has_every_option_that_changes_the_model(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[str] = []
    monkeypatch.setattr("service.training.loop.train", lambda *_, command, **__: commands.append(command))
    folders = [f"--{name}={path.parent / name}" for name in ("encoder", "data", "output")]
    main(["train", str(path), *folders, "--set", 'language = "de"', "--max-sentences", "200"])
    main(["train", str(path), *folders])
    assert commands == [
        "python -m service train toy --set 'language = \"de\"' --max-sentences 200"
        " --encoder ENCODER --data DATA --output RUN",
        "python -m service train toy --encoder ENCODER --data DATA --output RUN",
    ]
