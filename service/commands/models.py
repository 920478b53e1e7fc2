"""Parses `models`, which lists the store, and `compile`, which compiles the kernels."""

from __future__ import annotations

import argparse
from pathlib import Path

from service.commands import Commands


def add_to(commands: Commands) -> None:
    """Add both commands."""
    parser = commands.add_parser("models", help="list the models in the store")
    parser.add_argument("--store", type=Path, default=Path("model_store"), help="the model store")
    parser.set_defaults(run=_models)
    parser = commands.add_parser("compile", help="compile the kernels for this machine, so that no start has to wait")
    parser.set_defaults(run=_compile)


def _models(options: argparse.Namespace) -> None:
    from service.models.store import list_models

    for reference in list_models(options.store):
        print(reference)


def _compile(_: argparse.Namespace) -> None:
    from service.executors.choose import import_fused
    from service.settings import read_settings

    import_fused().compile_kernels(read_settings().instructions)
