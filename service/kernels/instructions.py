"""Which instructions the kernels use: what there is to multiply bytes, what a processor has, what a compiler may use.

How they are used is in `dots`, and the tiles that are made of them in `tiles`.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm
import numba

from service.errors import BadInput

_BEYOND_AVX_VNNI = ("avx512", "avx10", "amx")
_BEYOND_AVX2 = (*_BEYOND_AVX_VNNI, "avxvnni", "avxifma", "avxneconvert")


@dataclass(frozen=True, slots=True)
class Instructions:
    """One way to multiply bytes, and the processors that have it.

    name           as the setting calls it
    needs          features of the processor, by LLVM's names
    hides          how the names of features begin that are not used beside it, whether the processor has them or not
    adds_in_words  whether the products of two neighbouring bytes are added in 16 bits, which has to leave room for them
    is_fast        whether it is faster than PyTorch in float32
    """

    name: str
    needs: tuple[str, ...]
    hides: tuple[str, ...] = ()
    adds_in_words: bool = False
    is_fast: bool = True

    @property
    def target_features(self) -> str:
        """Features of this processor that are used, and those that are not, as LLVM reads them."""
        features = llvm.get_host_cpu_features()
        for name in features:
            features[name] = features[name] and not name.startswith(self.hides)
        return str(features.flatten())


ALL = (
    Instructions("avx512_vnni", ("avx512vnni", "avx512f")),
    Instructions("avx_vnni", ("avxvnni",), _BEYOND_AVX_VNNI),
    Instructions("avx2", ("avx2", "fma"), _BEYOND_AVX2, adds_in_words=True),
    Instructions("avx2_words", ("avx2", "fma"), _BEYOND_AVX2),
    Instructions("portable", (), is_fast=False),
)
"""The fastest first."""


def find(wanted: str = "auto") -> Instructions:
    """Find the named instructions; auto: the fastest that this processor has.

    Raises BadInput for a name that is unknown, and for instructions that this processor lacks.
    """
    features = llvm.get_host_cpu_features()
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
    """Return the instructions that are faster than these, whether this processor has them or not."""
    return list(ALL[: ALL.index(instructions)])


def restrict_compiler(instructions: Instructions) -> None:
    """Have numba use no others in what it compiles in this process from now on; to be called before it compiles."""
    if any(there and name.startswith(instructions.hides) for name, there in llvm.get_host_cpu_features().items()):
        config: Any = numba.config  # made of the environment, without types
        config.CPU_FEATURES = instructions.target_features
