"""Parses `serve`. All its settings come from the environment."""

from __future__ import annotations

import argparse

from service.commands import Commands


def add_to(commands: Commands, started: float) -> None:
    """Add the command; `started` is when the process began, in monotonic seconds."""
    parser = commands.add_parser("serve", help="answer requests; settings come from NER_* environment variables")
    parser.set_defaults(run=_serve, started=started)


def _serve(options: argparse.Namespace) -> None:
    from service.api.server import serve

    serve(options.started)
