"""A toy task, and a run on it that nobody interrupted."""

from __future__ import annotations

import pytest

from tests.models_ import save_bert_checkpoint
from tests.one_thread_ import one_thread as one_thread
from tests.training.toy_ import CITIES, PEOPLE, RECIPE, TEMPLATES, Run, Toy, write_conll


@pytest.fixture(scope="package")
def toy(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Toy:
    folder = tmp_path_factory.mktemp("toy")
    for name, count in (("train", 160), ("dev", 32), ("test", 16)):
        write_conll(folder / f"{name}.conll", count)
    (folder / "toy.toml").write_text(RECIPE, encoding="utf-8")
    words = {word.lower() for text in (*PEOPLE, *CITIES, *TEMPLATES) for word in text.split()}
    save_bert_checkpoint(folder / "encoder", sorted(words), spread=0.1)
    return Toy(folder)


@pytest.fixture(scope="package")
def finished(toy: Toy) -> Run:
    """A run that nobody interrupted."""
    output = toy.folder / "finished"
    toy.train(output)
    return Run(output)
