"""A teacher for the toy task, and texts for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.distillation.teachers_ import toy_texts, train_teacher
from tests.one_thread_ import one_thread as one_thread


@pytest.fixture(scope="package")
def teacher(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    return train_teacher(folder / "toy-ner", toy_texts(folder, 160, "train"))


@pytest.fixture(scope="package")
def texts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Over 300 different sentences."""
    return [example.text for example in toy_texts(tmp_path_factory.mktemp("texts"), 1_000)]
