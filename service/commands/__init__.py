"""The commands, one file a group: they parse and print, and import what does the work only when they run."""

from typing import Any

Commands = Any  # argparse keeps the type of add_subparsers' result to itself
