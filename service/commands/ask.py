"""Parses `ask`, which sends texts to a running server."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from service.commands import Commands
from service.errors import BadInput


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "ask", help="ask a running server for the entities of a text, or of a file of texts; NER_API_KEY holds its key"
    )
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("text", nargs="?", help="the text")
    asked.add_argument("--file", type=Path, help='.jsonl ({"text": ..., "id": ...} a line; ids are optional) or .txt')
    parser.add_argument("--url", help="the server; NER_URL, or else http://127.0.0.1:8000")
    parser.add_argument(
        "--output", type=Path, help="of --file: the answers; by default FILE.answers.jsonl, beside FILE"
    )
    parser.add_argument("--json", action="store_true", help="of one text: print the answer as the server gave it")
    parser.set_defaults(run=_ask)


def _ask(options: argparse.Namespace) -> int:
    from service.client.ask import ask_file, ask_text
    from service.client.http import NerClient

    if options.output and options.file is None:
        raise BadInput("--output is for the answers to --file; the answer to one text is printed")
    url = options.url or os.environ.get("NER_URL") or "http://127.0.0.1:8000"
    with NerClient(url, os.environ.get("NER_API_KEY", "")) as client:
        if options.file is not None:
            return ask_file(client, options.file, options.output or options.file.with_suffix(".answers.jsonl"))
        ask_text(client, options.text, as_json=options.json)
        return 0
