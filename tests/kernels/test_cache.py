"""Compiled kernels are kept apart by the source of all of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from numba import config

from service.kernels import cache
from service.kernels.entities import choose


def folder_of(package: Path, monkeypatch: pytest.MonkeyPatch, base: str = "") -> Path:
    monkeypatch.setattr(config, "CACHE_DIR", base)
    cache.keep_by_source(package)
    return Path(config.CACHE_DIR)


def test_a_change_of_any_source_asks_for_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("caller", "callee"):
        (tmp_path / f"{name}.py").write_text("def kernel(): ...\n")
    before = folder_of(tmp_path, monkeypatch)
    assert folder_of(tmp_path, monkeypatch) == before and before.parent == tmp_path / "__pycache__"
    (tmp_path / "callee.py").write_text("def kernel(): return 1\n")
    assert folder_of(tmp_path, monkeypatch) != before


def test_the_folder_that_the_user_names_is_the_one_that_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert folder_of(cache.HERE, monkeypatch, str(tmp_path / "mine")).parent == tmp_path / "mine"


def test_kernels_lie_in_the_folder_of_their_source() -> None:
    assert "kernels-" in str(choose.stats.cache_path)
