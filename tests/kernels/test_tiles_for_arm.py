"""Code of the tiles for processors of ARM, as LLVM writes it on any machine. What it computes only such a one shows."""

from __future__ import annotations

import re

import llvmlite.binding as llvm
import pytest

from service.kernels.instructions import ALL
from service.kernels.tiles import source

BLOCK = re.compile(r"^(\w+_tile)_(\d+):(.+?)^\.Lfunc_end", re.MULTILINE | re.DOTALL)
LOOP = re.compile(r"^(\.LBB\w+):.+?\sb\.\w+\s+\1$", re.MULTILINE | re.DOTALL)
TRIPLE = "aarch64-linux-gnu"


def loops(name: str, feature: str) -> list[tuple[str, int, str]]:
    """Of all blocks: the kind of tile, the rows, and the loop over the depth."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    instructions = next(one for one in ALL if one.name == name)
    machine = llvm.Target.from_triple(TRIPLE).create_target_machine("generic", f"+{feature}", opt=2)
    code = machine.emit_assembly(llvm.parse_assembly(source(instructions, TRIPLE)))
    return [(kind, int(rows), LOOP.search(block)[0]) for kind, rows, block in BLOCK.findall(code)]


def count(instruction: str, code: str) -> int:
    """How often an instruction is there."""
    return len(re.findall(rf"^\s+{instruction}\s", code, re.MULTILINE))


@pytest.mark.parametrize(
    ("name", "feature", "product", "zeros"), [("neon_i8mm", "i8mm", "usdot", 0), ("neon_dotprod", "dotprod", "sdot", 1)]
)
def test_a_loop_has_one_instruction_for_each_register_of_sums_and_one_a_row_for_the_sign_and_leaves_memory_alone(
    name: str, feature: str, product: str, zeros: int
) -> None:
    found = loops(name, feature)
    assert {kind for kind, *_ in found} == {"float_tile", "wide_float_tile", "byte_tile"}
    for kind, rows, code in found:
        quantized = kind == "byte_tile"
        assert count(product if quantized else "fmla", code) == 2 * (rows + quantized * zeros), (kind, rows)
        assert count("eor", code) == quantized * zeros * rows, (kind, rows)
        assert "[sp" not in code and count("st[rp]", code) == 0, (
            f"sums of {kind}, {rows} rows, do not stay in registers"
        )
