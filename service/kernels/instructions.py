"""Which instructions the kernels use: what there is to multiply bytes, what a processor has, what a compiler may use.

How they are used is in `dots`, and the tiles that are made of them in `tiles`.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm
import numba
import torch

from service.errors import BadInput

_BEYOND_AVX_VNNI = ("avx512", "avx10", "amx")
_BEYOND_AVX2 = (*_BEYOND_AVX_VNNI, "avxvnni", "avxifma", "avxneconvert")
_ASKED_OF_PYTORCH = {"dotprod": "dot", "i8mm": "i8mm"}
_X86, _ARM = ("x86_64",), ("aarch64", "arm64")


@dataclass(frozen=True, slots=True)
class Instructions:
    """One way to multiply bytes, and the processors that have it.

    name           as the setting calls it
    machines       that may have it, as `platform.machine` calls them; none: all
    needs          features of the processor, by LLVM's names
    hides          how the names of features begin that are not used beside it, whether the processor has them or not
    adds_in_words  whether the products of two neighbouring bytes are added in 16 bits, which has to leave room for them
    is_fast        whether it is faster than PyTorch in float32
    """

    name: str
    machines: tuple[str, ...]
    needs: tuple[str, ...]
    hides: tuple[str, ...] = ()
    adds_in_words: bool = False
    is_fast: bool = True

    @property
    def target_features(self) -> str:
        """Features of this processor that are used, and those that are not, as LLVM reads them."""
        features = features_here()
        for name in features:
            features[name] = features[name] and not name.startswith(self.hides)
        return str(features.flatten())


ALL = (
    Instructions("avx512_vnni", _X86, ("avx512vnni", "avx512f")),
    Instructions("avx_vnni", _X86, ("avxvnni",), _BEYOND_AVX_VNNI),
    Instructions("avx2", _X86, ("avx2", "fma"), _BEYOND_AVX2, adds_in_words=True),
    Instructions("avx2_words", _X86, ("avx2", "fma"), _BEYOND_AVX2),
    Instructions("neon_i8mm", _ARM, ("i8mm",)),
    Instructions("neon_dotprod", _ARM, ("dotprod",), ("i8mm",)),
    Instructions("portable", (), (), is_fast=False),
)
"""The fastest of a kind of machine first; on ARM by how many they are, since none was measured there."""


def features_here() -> llvm.FeatureMap:
    """Return which features this processor has, by LLVM's names, as far as they are known.

    LLVM does not ask Linux for ARM's products of bytes, nor macOS for anything; PyTorch asks both.
    """
    features = llvm.get_host_cpu_features()
    found = torch.cpu.get_capabilities()
    features.update({name: bool(found[here]) for name, here in _ASKED_OF_PYTORCH.items() if here in found})
    return features


def find(wanted: str = "auto") -> Instructions:
    """Find the named instructions; auto: the fastest that this processor has.

    Raises BadInput for a name that is unknown, and for instructions that this processor lacks.
    """
    features = features_here()
    there = [one for one in ALL if all(features.get(name) for name in one.needs)]
    if wanted == "auto":
        return there[0]
    if wanted not in (names := [one.name for one in ALL]):
        raise BadInput(f"instructions {wanted!r} are unknown; expected one of {['auto', *names]}")
    for one in there:
        if one.name == wanted:
            return one
    raise BadInput(
        f"instructions {wanted} were asked for, and this processor ({platform.machine()}) lacks them; "
        f"use auto, or one of {[one.name for one in there]}"
    )


def faster_than(instructions: Instructions) -> list[Instructions]:
    """Return the instructions of this kind of machine that are faster than these, whether it has them or not."""
    return [one for one in ALL[: ALL.index(instructions)] if platform.machine() in one.machines]


def restrict_compiler(instructions: Instructions) -> None:
    """Have numba use no others in what it compiles in this process from now on; to be called before it compiles."""
    if any(there and name.startswith(instructions.hides) for name, there in features_here().items()):
        config: Any = numba.config  # made of the environment, without types
        config.CPU_FEATURES = instructions.target_features
