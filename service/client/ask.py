"""The command `ask`: it answers one text, for people or machines, or a file of texts."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from tqdm import tqdm

from service.client.answers import answer_file
from service.client.http import NerClient
from service.client.lines import read_lines

_MOST_PROBLEMS = 10  # that are printed; the file of answers has them all
INTERRUPTED = 130  # the exit code that shells use for it


def ask_text(client: NerClient, text: str, *, as_json: bool) -> None:
    """Print the answer to one text: as JSON, like on the wire, or for people."""
    (result,) = client.ner([text])
    print(json.dumps(result, ensure_ascii=False) if as_json else format_result(result))


def ask_file(client: NerClient, source: Path, target: Path) -> int:
    """Answer a file of texts into another; return the exit code: 1 if a line has no answer, or INTERRUPTED."""
    total = sum(1 for _ in read_lines(source))
    problems: list[str] = []
    try:
        with tqdm(total=total, unit="text", disable=None) as progress:  # None: shown on a terminal alone
            for record in answer_file(source, target, client):
                progress.update()
                if "error" in record:
                    problems.append(f"{source}:{record['line']}: {record['error']}")
    except KeyboardInterrupt:
        print(f"stopped; the same command goes on after the last answer in {target}", file=sys.stderr)
        return INTERRUPTED
    for problem in problems[:_MOST_PROBLEMS]:
        print(problem, file=sys.stderr)
    without = f", {len(problems)} of them without an answer" if problems else ""
    print(f"{target}: {total} lines{without}", file=sys.stderr)
    return 1 if problems else 0


def format_result(result: Mapping[str, Any]) -> str:
    """Return a result for people: one entity per line, and the layers after which its sentences left."""
    entities = result["entities"]
    rows = [(e["label"], f"{e['score']:.3f}", _printable(e["text"]), f"[{e['start']}:{e['end']}]") for e in entities]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows] or ["no entities"]
    timing = f"{result['timing_ms']['total']:.1f} ms, {result['model']}, policy {result['policy_version']}"
    return "\n".join([*lines, f"{_exits(result)} ({timing})"])


def _exits(result: Mapping[str, Any]) -> str:
    layers = [sequence["exit_layer"] for sequence in result["sequences"]]
    of = f"of {result['num_layers']}"
    if len(layers) <= 1:
        return f"left at layer {result['exit_layer']} {of}"
    return f"{len(layers)} sentences left at layer {fmean(layers):.1f} {of} on average, the deepest at {max(layers)}"


def _printable(text: str) -> str:
    """Return a text on one line, with the characters escaped that a terminal could take as a command."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
