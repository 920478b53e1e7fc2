"""Which instructions are chosen on which (faked) processor, and what is hidden from the compiler."""

from __future__ import annotations

import platform
from typing import get_args

import llvmlite.binding as llvm
import numba
import pytest

from service.errors import BadInput
from service.kernels.instructions import ALL, faster_than, find, restrict_compiler
from service.settings import Settings

AVX2 = ("avx2", "fma")
SKYLAKE = (*AVX2, "avx512f", "avx512bw", "avx512vl")
ICE_LAKE = (*SKYLAKE, "avx512vnni")
ALDER_LAKE = (*AVX2, "avxvnni")
SAPPHIRE_RAPIDS = (*ICE_LAKE, "avxvnni", "amx-int8")
GRAVITON = ("neon", "dotprod", "i8mm")


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> tuple[str, ...]:
    """A processor with these features; as LLVM does, it tells of some others that they are not there."""
    there: tuple[str, ...] = request.param
    kind = type(llvm.get_host_cpu_features())
    features = {name: name in there for name in (*SAPPHIRE_RAPIDS, *GRAVITON)}
    monkeypatch.setattr(llvm, "get_host_cpu_features", lambda: kind(features))
    monkeypatch.setattr(numba.config, "CPU_FEATURES", None)
    return there


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        (SAPPHIRE_RAPIDS, "avx512_vnni"),
        (ICE_LAKE, "avx512_vnni"),
        (ALDER_LAKE, "avx_vnni"),
        (SKYLAKE, "avx2"),
        (AVX2, "avx2"),
        (("avx2",), "portable"),  # a float tile needs FMA
        (("avx512vnni",), "portable"),
        (GRAVITON, "portable"),
        ((), "portable"),
    ],
    indirect=["processor"],
)
def test_the_fastest_instructions_of_a_processor_are_chosen(processor: tuple[str, ...], expected: str) -> None:
    assert find().name == find("auto").name == find(expected).name == expected, processor


@pytest.mark.parametrize("processor", [SAPPHIRE_RAPIDS], indirect=True)
@pytest.mark.parametrize("name", [one.name for one in ALL])
def test_slower_instructions_may_be_asked_for(processor: tuple[str, ...], name: str) -> None:
    assert find(name).name == name, processor


@pytest.mark.parametrize("processor", [AVX2, GRAVITON], indirect=True)
def test_instructions_that_the_processor_lacks_are_refused_with_those_that_it_has(
    processor: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "a-machine")
    with pytest.raises(
        BadInput, match=r"instructions avx_vnni .*\(a-machine\) lacks them; use auto, or one of"
    ) as told:
        find("avx_vnni")
    assert ("'avx2'" in str(told.value)) == (processor == AVX2) and "'portable'" in str(told.value)


def test_unknown_instructions_are_refused_with_the_known_ones() -> None:
    with pytest.raises(BadInput, match=r"'sse9' are unknown; expected one of \['auto', 'avx512_vnni', .*'portable'\]"):
        find("sse9")


@pytest.mark.parametrize("processor", [SAPPHIRE_RAPIDS, SKYLAKE], indirect=True)
def test_what_is_beyond_the_instructions_is_hidden_from_the_compiler(processor: tuple[str, ...]) -> None:
    restrict_compiler(find("avx2"))
    told = numba.config.CPU_FEATURES.split(",")
    assert {"+avx2", "+fma"} <= set(told)
    assert {f"-{name}" for name in processor if name not in AVX2} <= set(told)


@pytest.mark.parametrize("processor", [SAPPHIRE_RAPIDS, ALDER_LAKE, AVX2, GRAVITON], indirect=True)
def test_the_compiler_is_left_alone_where_the_fastest_instructions_are_used(processor: tuple[str, ...]) -> None:
    restrict_compiler(find())
    assert numba.config.CPU_FEATURES is None, processor


def test_the_setting_takes_what_there_is() -> None:
    assert get_args(Settings.model_fields["instructions"].annotation) == ("auto", *(one.name for one in ALL))


def test_faster_instructions_are_those_before() -> None:
    names = [one.name for one in ALL]
    for index, one in enumerate(ALL):
        assert [faster.name for faster in faster_than(one)] == names[:index]
