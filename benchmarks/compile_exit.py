"""Compiles the kernels of exits and layers for a GPU that need not be here: registers, spills and shared memory.

    python -m benchmarks.compile_exit

It needs Triton, which comes with PyTorch's build for CUDA, and no card: compute capability 9.0 is an H100's or H200's.
A line for each kernel, as JSON; it fails where a kernel does not compile.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from service.executors import triton_attention, triton_norm
from service.executors.triton_exit import CELLS, DEPTH, FIRST, LAST, ROWS
from service.executors.triton_exit import WARPS as WARPS_OF_EXITS
from service.models.config import ExitConfig

WIDTH, BLOCK, HEAD_WIDTH = 768, 1_024, 64  # of BERT-base
LABELS = 16  # as a side of a tile: all models with up to 16
WARPS = {**WARPS_OF_EXITS, "add_norm": triton_norm.WARPS, "attend": triton_attention.WARPS}
ALIGNED = ("*bf16", "*fp32", "*i32")  # the others lie end to end in one array
# types of a kernel's parameters, in their order
PROJECT = "*bf16 *i64 *i64 *i64 *bf16 *bf16 *fp32 *fp32 *fp32 *fp32 *fp32 i32 i32"
SCORE = "*fp32 *fp32 *fp32 *fp32 *i64 *i64 *i32 *fp32 *fp32 *fp32 i32 i32 i32 i32"
NORM = "*bf16 *bf16 *bf16 *bf16 *bf16 fp32"
FINISH = "*fp32 *i32 *fp32 *i64 *i64 *fp32 i32 i32"
ATTEND = "*bf16 *bf16 *bf16 *fp32 *i64 *i32 *i32 *bf16 i32 i32 i32 fp32"


def kernels(rank: int, reach: int) -> dict[str, tuple[str, str, dict[str, int]]]:
    """Return, by the name to tell: the kernel's own name, its parameters' types, and its constants."""
    score = {"RANK": rank, "LABELS": LABELS, "FIRST": FIRST, "LAST": LAST}
    project = {"RANK": rank, "LABELS": LABELS, "REACH": reach, "ROWS": ROWS, "DEPTH": DEPTH}
    tile = {"QUERIES": triton_attention.QUERIES, "KEYS": triton_attention.KEYS}
    attend = {"WIDTH": HEAD_WIDTH, "BLOCK": HEAD_WIDTH, **tile}
    return {
        "project": ("project", PROJECT, project),
        "score": ("score", SCORE, {**score, "WITH_TABLE": False}),
        "score with its table": ("score", SCORE, {**score, "WITH_TABLE": True}),
        "finish": ("finish", FINISH, {"FIRST": FIRST, "LAST": LAST, "CELLS": CELLS}),
        "add_norm": ("add_norm", NORM, {"WIDTH": WIDTH, "BLOCK": BLOCK, "WITH_GAIN": True}),
        "add_norm without its gain": ("add_norm", NORM, {"WIDTH": WIDTH, "BLOCK": BLOCK, "WITH_GAIN": False}),
        "attend": ("attend", ATTEND, {**attend, "SOME_HALTED": False}),
        "attend where words are halted": ("attend", ATTEND, {**attend, "SOME_HALTED": True}),
    }


def compile_kernel(name: str, types: str, constants: dict[str, int], capability: int) -> dict[str, Any]:
    """Compile one kernel; -> what the assembler says of it."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from service.executors import attention_kernel, exit_kernels, norm_kernel

    module = {"add_norm": norm_kernel, "attend": attention_kernel}.get(name, exit_kernels)
    kernel = getattr(module, name)
    given = types.split()
    signature = dict(zip(kernel.arg_names, [*given, *("constexpr" for _ in constants)], strict=True))
    aligned = {(place,): [["tt.divisibility", 16]] for place, kind in enumerate(given) if kind in ALIGNED}
    source = ASTSource(kernel, signature, constants, aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": WARPS[name]})
    with tempfile.TemporaryDirectory() as folder:
        ptx = Path(folder, "kernel.ptx")
        ptx.write_text(compiled.asm["ptx"], encoding="utf-8")
        assembler = triton.knobs.nvidia.ptxas.path
        target = re.search(r"\.target (\w+)", compiled.asm["ptx"])
        assert target is not None
        command = [assembler, "-v", f"--gpu-name={target[1]}", str(ptx), "-o", str(Path(folder, "kernel.cubin"))]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    stores, loads = re.findall(r"(\d+) bytes spill (?:stores|loads)", told)[:2]
    (registers,) = re.findall(r"Used (\d+) registers", told)
    return {
        "registers": int(registers),
        "spill_bytes": int(stores) + int(loads),
        "shared_bytes": compiled.metadata.shared,
        "warps": WARPS[name],
    }


def main() -> None:
    """Compile all kernels and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capability", type=int, default=90, help="compute capability times 10; 90 is that of an H100")
    parser.add_argument("--rank", type=int, default=ExitConfig().rank, help="of the exits")
    options = parser.parse_args()
    for told, kernel in kernels(options.rank, ExitConfig().reach).items():
        row = compile_kernel(*kernel, options.capability)
        print(json.dumps({"kernel": told, "capability": options.capability, "rank": options.rank, **row}), flush=True)


if __name__ == "__main__":
    main()
