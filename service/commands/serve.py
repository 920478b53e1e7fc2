"""Parses `serve`. All its settings come from the environment; its options are other ways to write the usual ones."""

from __future__ import annotations

import argparse
import os

from service.commands import Commands

_OPTIONS = {
    "model": "a name in the store, name@version, a model folder, or that of a Transformers token classifier",
    "host": "address to listen on",
    "port": "port to listen on; 0 takes a free one",
}


def add_to(commands: Commands, started: float) -> None:
    """Add the command; `started` is when the process began, in monotonic seconds."""
    parser = commands.add_parser("serve", help="answer requests; settings come from NER_* environment variables")
    for name, meaning in _OPTIONS.items():
        parser.add_argument(f"--{name}", help=f"{meaning}; instead of NER_{name.upper()}")
    parser.set_defaults(run=_serve, started=started)


def _serve(options: argparse.Namespace) -> None:
    from service.api.server import serve

    given = {f"NER_{name.upper()}": getattr(options, name) for name in _OPTIONS}
    os.environ.update({name: value for name, value in given.items() if value is not None})
    serve(options.started)
