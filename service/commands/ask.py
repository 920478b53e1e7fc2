"""Parses `ask`, which sends texts to a running server."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from service.commands import Commands
from service.errors import BadInput, ServiceError


class Unanswered(ServiceError):
    """There is no answer; the message says whether for want of a server, or because of the text."""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "ask", help="ask a running server for the entities of a text, or of a file of texts; NER_API_KEY holds its key"
    )
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("text", nargs="?", help="the text; - reads it from the standard input")
    asked.add_argument(
        "--file",
        type=Path,
        help='many texts: .jsonl ({"text": ...} a line), .csv (with a header) or .txt (a text a line); their other '
        "fields are kept; - reads them from the standard input",
    )
    parser.add_argument("--format", choices=("jsonl", "csv", "txt"), help="of --file, if its suffix does not say it")
    parser.add_argument("--column", default="text", help="of --file: the field or column of the texts; text")
    parser.add_argument(
        "--output",
        type=Path,
        help="of --file: the answers; by default FILE.answers.jsonl, beside FILE, or the standard output for -",
    )
    parser.add_argument("--labels", type=_names, default=[], metavar="A,B", help="keep only entities of these labels")
    parser.add_argument("--url", help="the server; NER_URL, or else http://127.0.0.1:8000")
    parser.add_argument("--json", action="store_true", help="of one text: print the answer as the server gave it")
    parser.set_defaults(run=_ask)


def _names(listed: str) -> list[str]:
    return [name.strip() for name in listed.split(",") if name.strip()]


def _ask(options: argparse.Namespace) -> int:
    from ner_client import Client, NerError
    from service.client.ask import ask_file, ask_text
    from service.client.lines import Source

    if options.file is None and (options.output or options.format):
        raise BadInput("--output and --format are for the answers to --file; the answer to one text is printed")
    try:
        client = Client(options.url or None)
    except ValueError as error:
        raise BadInput(str(error)) from error
    try:
        with client:
            if options.file is not None:
                source = Source(options.file, options.format or "", options.column)
                beside = None if source.is_standard_input else options.file.with_suffix(".answers.jsonl")
                return ask_file(client, source, options.output or beside, labels=options.labels)
            text = _standard_input() if options.text == "-" else options.text
            ask_text(client, text, labels=options.labels, as_json=options.json)
            return 0
    except NerError as error:
        raise Unanswered(str(error)) from error


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"the standard input is not UTF-8 ({error}); convert it first") from error
