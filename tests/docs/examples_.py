"""The examples of a page: what is run, what it should print, and how the two are compared. No test lives here.

In what a page shows, `...` stands for anything: the rest of an object or a list, or a value. Times, dates and ids are
compared by their kind, other numbers that are no integers to two digits, since int8 and float32 differ beyond.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from tests.docs.pages_ import Block, Page

VOLATILE = {"timing_ms", "updated_at", "since", "request_id"}
TOLERANCE = 0.02
_NUMBER = re.compile(r"\d+\.\d+(?! ms)|\d+\.\d+ ms")


def examples(page: Page) -> Iterator[tuple[Block, Block]]:
    """Every block that talks to a server, with the one after it: what it prints, or nothing if that is a file."""
    for block, after in pairwise([*page.blocks, Block("", "")]):
        shown = Block("text", "") if after.language == "yaml" else after
        asks = re.search(r"localhost:8000|service ask", block.text) if block.language == "sh" else None
        if asks or block.language == "python":
            yield block, shown


def files(page: Page) -> dict[str, str]:
    """The files that a page shows in YAML, by the names in their first lines."""
    blocks = [block.text for block in page.blocks if block.language == "yaml"]
    return {text.partition("\n")[0].removeprefix("# "): text for text in blocks}


def differences(shown: Block, printed: str) -> list[str]:
    """Between what a page shows and what was printed; empty where it holds."""
    if shown.language == "json":
        return list(_of_values(_relaxed(shown.text), json.loads(printed.splitlines()[-1]), ""))
    return list(_of_texts(shown.text.strip(), printed.strip()))


def _relaxed(text: str) -> Any:
    """JSON in which dots stand for what is left out."""
    text = re.sub(r",\s*\.\.\.\s*}", ', "...": "..."}', text)
    return json.loads(re.sub(r",\s*\.\.\.\s*]", ', "..."]', text))


def _of_values(shown: Any, found: Any, where: str) -> Iterator[str]:
    is_volatile = where.rpartition(".")[2] in VOLATILE
    if shown == "..." or (is_volatile and type(shown) is type(found) and not isinstance(shown, dict)):
        return
    if isinstance(shown, dict) and isinstance(found, dict):
        names = shown.keys() - {"..."}
        if names != (found.keys() & names if "..." in shown else found.keys()):
            yield f"{where}: shown {sorted(names)}, found {sorted(found)}"
            return
        for name in names - (shown.keys() if is_volatile else set()):
            yield from _of_values(shown[name], found[name], f"{where}.{name}")
    elif isinstance(shown, list) and isinstance(found, list):
        is_cut = shown[-1:] == ["..."]
        items = shown[:-1] if is_cut else shown
        if len(items) > len(found) or (len(items) != len(found) and not is_cut):
            yield f"{where}: shown {len(items)} items, found {len(found)}"
            return
        for index, item in enumerate(items):
            yield from _of_values(item, found[index], f"{where}[{index}]")
    elif isinstance(shown, float) and isinstance(found, float):
        if abs(shown - found) > TOLERANCE:
            yield f"{where}: shown {shown}, found {found}"
    elif shown != found:
        yield f"{where}: shown {shown!r}, found {found!r}"


def _of_texts(shown: str, printed: str) -> Iterator[str]:
    if _NUMBER.sub("#", shown) != _NUMBER.sub("#", printed):
        yield f"shown\n{shown}\nfound\n{printed}"
        return
    for one, other in zip(_NUMBER.findall(shown), _NUMBER.findall(printed), strict=True):
        if not one.endswith("ms") and abs(float(one) - float(other)) > TOLERANCE:
            yield f"shown {one}, found {other}"
