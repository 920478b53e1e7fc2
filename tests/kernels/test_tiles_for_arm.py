"""Code of the tiles for processors of ARM, as LLVM writes it on any machine. What it computes only such a one shows."""

from __future__ import annotations

import re

import llvmlite.binding as llvm

from service.kernels.instructions import ALL
from service.kernels.tiles import MAX_TILE_ROWS, source

BLOCK = re.compile(r"^byte_tile_(\d+):(.+?)^\.Lfunc_end", re.MULTILINE | re.DOTALL)
LOOP = re.compile(r"^(\.LBB\w+):.+?\sb\.\w+\s+\1$", re.MULTILINE | re.DOTALL)


def loops(name: str, feature: str, triple: str) -> dict[int, str]:
    """The loops over the depth of the blocks of bytes, by their rows."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    instructions = next(one for one in ALL if one.name == name)
    machine = llvm.Target.from_triple(triple).create_target_machine("generic", f"+{feature}", opt=2)
    code = machine.emit_assembly(llvm.parse_assembly(source(instructions, triple)))
    return {int(rows): LOOP.search(block)[0] for rows, block in BLOCK.findall(code)}


def count(instruction: str, code: str) -> int:
    """How often an instruction is there."""
    return len(re.findall(rf"^\s+{instruction}\s", code, re.MULTILINE))


def test_one_instruction_adds_products_of_unsigned_with_signed_bytes_to_a_register_of_sums() -> None:
    found = loops("neon_i8mm", "i8mm", "aarch64-linux-gnu")
    assert max(found) == MAX_TILE_ROWS
    for rows, code in found.items():
        assert count("usdot", code) == 2 * rows and count("eor", code) == 0
        assert "[sp" not in code, f"sums of {rows} rows do not stay in registers"


def test_with_signed_bytes_alone_there_is_a_row_of_zeros_and_one_instruction_more_a_row() -> None:
    found = loops("neon_dotprod", "dotprod", "aarch64-linux-gnu")
    assert max(found) >= MAX_TILE_ROWS - 2
    for rows, code in found.items():
        assert count("sdot", code) == 2 * (rows + 1) and count("eor", code) == rows
        assert "[sp" not in code, f"sums of {rows} rows do not stay in registers"
