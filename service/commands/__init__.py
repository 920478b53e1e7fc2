"""The commands, one file per group: they parse and print, and import the code that does the work when they run."""

from typing import Any

Commands = Any  # argparse has no public type for the result of add_subparsers
