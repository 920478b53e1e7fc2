"""Which instructions are chosen on which (faked) processor, and what is hidden from the compiler."""

from __future__ import annotations

import platform
from typing import get_args

import llvmlite.binding as llvm
import numba
import pytest
import torch

from service.errors import BadInput
from service.kernels import instructions
from service.kernels.instructions import ALL, faster_than, features_here, find, restrict_compiler
from service.settings import Settings

AVX2 = ("avx2", "fma")
SKYLAKE = (*AVX2, "avx512f", "avx512bw", "avx512vl")
ICE_LAKE = (*SKYLAKE, "avx512vnni")
ALDER_LAKE = (*AVX2, "avxvnni")
SAPPHIRE_RAPIDS = (*ICE_LAKE, "avxvnni", "amx-int8")
CORTEX_A72 = ("neon", "fp-armv8")  # as in Graviton 1
NEOVERSE_N1 = (*CORTEX_A72, "dotprod")  # as in Graviton 2
NEOVERSE_V1 = (*NEOVERSE_N1, "i8mm", "sve")  # as in Graviton 3


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> tuple[str, ...]:
    """A processor with these features; as LLVM does, it tells of some others that they are not there."""
    there: tuple[str, ...] = request.param
    features = {name: name in there for name in (*SAPPHIRE_RAPIDS, *NEOVERSE_V1)}
    monkeypatch.setattr(instructions, "features_here", lambda: llvm.FeatureMap(features))
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
        (NEOVERSE_V1, "neon_i8mm"),
        (NEOVERSE_N1, "neon_dotprod"),
        (CORTEX_A72, "portable"),
        ((), "portable"),
    ],
    indirect=["processor"],
)
def test_the_fastest_instructions_of_a_processor_are_chosen(processor: tuple[str, ...], expected: str) -> None:
    assert find().name == find("auto").name == find(expected).name == expected, processor


@pytest.mark.parametrize(
    ("processor", "name"),
    [
        *((SAPPHIRE_RAPIDS, name) for name in ("avx512_vnni", "avx_vnni", "avx2", "avx2_words", "portable")),
        *((NEOVERSE_V1, name) for name in ("neon_i8mm", "neon_dotprod", "portable")),
    ],
    indirect=["processor"],
)
def test_slower_instructions_may_be_asked_for(processor: tuple[str, ...], name: str) -> None:
    assert find(name).name == name, processor


@pytest.mark.parametrize("processor", [AVX2, NEOVERSE_V1], indirect=True)
def test_instructions_that_the_processor_lacks_are_refused_with_those_that_it_has(
    processor: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "a-machine")
    with pytest.raises(
        BadInput, match=r"instructions avx_vnni .*\(a-machine\) lacks them; use auto, or one of"
    ) as told:
        find("avx_vnni")
    assert ("'avx2'" in str(told.value)) == (processor == AVX2) and "'portable'" in str(told.value)
    assert ("'neon_i8mm'" in str(told.value)) == (processor == NEOVERSE_V1)


def test_unknown_instructions_are_refused_with_the_known_ones() -> None:
    with pytest.raises(BadInput, match=r"'sse9' are unknown; expected one of \['auto', 'avx512_vnni', .*'portable'\]"):
        find("sse9")


@pytest.mark.parametrize("processor", [SAPPHIRE_RAPIDS, SKYLAKE], indirect=True)
def test_what_is_beyond_the_instructions_is_hidden_from_the_compiler(processor: tuple[str, ...]) -> None:
    restrict_compiler(find("avx2"))
    told = numba.config.CPU_FEATURES.split(",")
    assert {"+avx2", "+fma"} <= set(told)
    assert {f"-{name}" for name in processor if name not in AVX2} <= set(told)


@pytest.mark.parametrize("processor", [NEOVERSE_V1], indirect=True)
def test_products_of_unsigned_with_signed_bytes_are_hidden_where_those_of_signed_ones_are_wanted(
    processor: tuple[str, ...],
) -> None:
    restrict_compiler(find("neon_dotprod"))
    told = numba.config.CPU_FEATURES.split(",")
    assert {"+dotprod", "+sve", "-i8mm"} <= set(told), processor


@pytest.mark.parametrize("processor", [SAPPHIRE_RAPIDS, ALDER_LAKE, AVX2, NEOVERSE_V1, NEOVERSE_N1], indirect=True)
def test_the_compiler_is_left_alone_where_the_fastest_instructions_are_used(processor: tuple[str, ...]) -> None:
    restrict_compiler(find())
    assert numba.config.CPU_FEATURES is None, processor


def test_the_setting_takes_what_there_is() -> None:
    assert get_args(Settings.model_fields["instructions"].annotation) == ("auto", *(one.name for one in ALL))


@pytest.mark.parametrize(
    ("machine", "names"),
    [
        ("x86_64", ["avx512_vnni", "avx_vnni", "avx2", "avx2_words", "portable"]),
        ("aarch64", ["neon_i8mm", "neon_dotprod", "portable"]),
        ("arm64", ["neon_i8mm", "neon_dotprod", "portable"]),  # macOS
        ("riscv64", ["portable"]),
    ],
)
def test_faster_instructions_are_those_of_the_same_kind_of_machine_that_come_before(
    monkeypatch: pytest.MonkeyPatch, machine: str, names: list[str]
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    for index, one in enumerate(one for one in ALL if one.name in names):
        assert [faster.name for faster in faster_than(one)] == names[:index]


def test_pytorch_is_asked_for_what_llvm_does_not_ask_of_arm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llvm, "get_host_cpu_features", lambda: llvm.FeatureMap(neon=True))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"neon": True, "dot": True, "i8mm": False, "sve": True})
    assert features_here() == {"neon": True, "dotprod": True, "i8mm": False}
    assert find().name == "neon_dotprod"
    assert find().target_features == "+dotprod,-i8mm,+neon"


def test_where_pytorch_knows_nothing_of_arm_llvm_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llvm, "get_host_cpu_features", lambda: llvm.FeatureMap(avx2=True, fma=True))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": False, "fma3": False})
    assert features_here() == {"avx2": True, "fma": True}
