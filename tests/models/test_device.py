"""How many cores there are, by affinity and by the quota of a (made-up) cgroup."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from service.errors import BadInput
from service.models.device import available_cores, choose_device, use_threads


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


@pytest.fixture
def threads_restored() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def write_v1(cgroup: Path, quota: str, period: str) -> None:
    (cgroup / "cpu").mkdir()
    (cgroup / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (cgroup / "cpu" / "cpu.cfs_period_us").write_text(period)


@pytest.mark.parametrize(
    ("cpu_max", "cores"),
    [
        ("150000 100000\n", 2),
        ("100000 100000\n", 1),
        ("20000 100000\n", 1),
        ("1600000 100000\n", 8),
        ("max 100000\n", 8),
        ("nonsense", 8),
        ("1.5 cores", 8),
    ],
)
def test_a_v2_quota_is_rounded_up_to_whole_cores(tmp_path: Path, cpu_max: str, cores: int) -> None:
    (tmp_path / "cpu.max").write_text(cpu_max)
    assert available_cores(tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [("250000\n", 3), ("-1\n", 8), ("9000000\n", 8), ("", 8)])
def test_a_v1_quota_is_rounded_up_to_whole_cores(tmp_path: Path, quota: str, cores: int) -> None:
    write_v1(tmp_path, quota, "100000\n")
    assert available_cores(tmp_path) == cores


def test_without_a_cgroup_the_affinity_decides(tmp_path: Path) -> None:
    assert available_cores(tmp_path / "none") == 8


def test_where_a_system_has_neither_affinity_nor_cgroups_all_cores_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert available_cores(tmp_path / "none") == 6


def test_fewer_cores_than_the_quota_allows_are_all_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5})
    (tmp_path / "cpu.max").write_text("150000 100000")
    assert available_cores(tmp_path) == 1


@pytest.mark.usefixtures("threads_restored")
def test_as_many_threads_are_used_as_asked_for() -> None:
    assert use_threads(1) == torch.get_num_threads() == 1
    assert use_threads(3) == torch.get_num_threads() == 3


def test_an_unknown_device_is_refused_by_name() -> None:
    with pytest.raises(BadInput, match="'tpu'"):
        choose_device("tpu")


def test_cuda_is_taken_when_there_and_refused_when_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto").type == choose_device("cpu").type == "cpu"
    with pytest.raises(BadInput, match="no GPU"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto").type == choose_device("cuda").type == "cuda"
    assert choose_device("cpu").type == "cpu"
