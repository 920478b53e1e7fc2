"""The command line. Each command imports what it needs, so that serving never waits for training's libraries."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from service import __version__
from service.commands import ask, distil, evaluation, fetch, models, serve, train
from service.errors import ServiceError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 2 if a ServiceError ended it, whose message is printed in one line."""
    started = time.monotonic()
    parser = argparse.ArgumentParser(prog="python -m service", description=__doc__)
    parser.add_argument("--version", action="version", version=f"vee-ner {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    serve.add_to(commands, started)
    for group in (ask, fetch, train, distil, evaluation, models):
        group.add_to(commands)
    options = parser.parse_args(arguments)
    try:
        code: int | None = options.run(options)
    except ServiceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return code or 0


if __name__ == "__main__":
    sys.exit(main())
