"""The command `ask`: it answers one text, for people or machines, or a file of texts."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import fmean

from tqdm import tqdm

from ner_client import Client, Result, ServerLost
from service.client.answers import answer_file, answered_by, answers
from service.client.lines import Source
from service.errors import BadInput

_MOST_PROBLEMS = 10  # that are printed; the answers have them all
INTERRUPTED = 130  # the exit code that shells use for it


def ask_text(client: Client, text: str, *, labels: Sequence[str], as_json: bool) -> None:
    """Print the answer to one text: as JSON, like on the wire, or for people."""
    result = client.ner(text, labels=labels or None)
    print(json.dumps(result, ensure_ascii=False) if as_json else format_result(result))


def ask_file(client: Client, source: Source, target: Path | None, *, labels: Sequence[str]) -> int:
    """Answer texts into a file, or without one onto the standard output; show how far it is.

    Returns the exit code: 1 if a line has no answer, or INTERRUPTED. Raises BadInput for a label that the model lacks.
    """
    if labels:
        _check_labels(client, labels)
    if target is not None:
        _compare(client, target)
    total = None if source.is_standard_input else sum(1 for _ in source.lines())
    told = answers(source.lines(), client, labels) if target is None else answer_file(source, target, client, labels)
    hidden = True if target is None and sys.stdout.isatty() else None  # None: shown on a terminal alone
    problems: list[str] = []
    count = 0
    try:
        for record in tqdm(told, total=total, unit="text", disable=hidden):
            count += 1
            if target is None:
                line = json.dumps(record, ensure_ascii=False) + "\n"
                sys.stdout.buffer.write(line.encode("utf-8", "backslashreplace"))
                sys.stdout.buffer.flush()
            if "error" in record:
                problems.append(f"{source.path}:{record['line']}: {record['error']}")
    except KeyboardInterrupt:
        hint = f"; the same command goes on after the last answer in {target}" if target else ""
        print(f"stopped{hint}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever reads the answers has enough of them
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    for problem in problems[:_MOST_PROBLEMS]:
        print(problem, file=sys.stderr)
    without = f", {len(problems)} of them without an answer" if problems else ""
    if problems or target is not None:
        print(f"{target or source.path}: {count} lines{without}", file=sys.stderr)
    return 1 if problems else 0


def _check_labels(client: Client, labels: Sequence[str]) -> None:
    model = client.models()[0]
    if unknown := sorted(set(labels) - set(model["labels"])):
        known = ", ".join(model["labels"])
        raise BadInput(f"--labels {', '.join(unknown)}: the model {model['name']}@{model['version']} has {known}")


def _compare(client: Client, target: Path) -> None:
    """Warn of answers on file that are not what the server would answer now: of another model or policy."""
    on_file = answered_by(target)
    if not on_file:
        return
    with suppress(ServerLost):  # if there is more to answer, it is said then; if not, there is nothing to warn of
        model, current = client.models()[0], client.exit_policy()["version"]
        serving = f"{model['name']}@{model['version']}"
        for (name, version), count in on_file.items():
            if (name, version) != (serving, current):
                said = (
                    f"warning: {count} of the answers in {target} are by {name} under policy {version}; the server has"
                )
                now = f"{serving} under policy {current}. Remove the file to ask for all anew"
                print(said, now, file=sys.stderr)


def format_result(result: Result) -> str:
    """Return a result for people: one entity per line, and the layers after which its sentences left."""
    entities = result["entities"]
    rows = [(e["label"], f"{e['score']:.3f}", _printable(e["text"]), f"[{e['start']}:{e['end']}]") for e in entities]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows] or ["no entities"]
    timing = f"{result['timing_ms']['total']:.1f} ms, {result['model']}, policy {result['policy_version']}"
    return "\n".join([*lines, f"{_exits(result)} ({timing})"])


def _exits(result: Result) -> str:
    layers = [sequence["exit_layer"] for sequence in result["sequences"]]
    of = f"of {result['num_layers']}"
    if len(layers) <= 1:
        return f"left at layer {result['exit_layer']} {of}"
    return f"{len(layers)} sentences left at layer {fmean(layers):.1f} {of} on average, the deepest at {max(layers)}"


def _printable(text: str) -> str:
    """Return a text on one line, with the characters escaped that a terminal could take as a command."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
