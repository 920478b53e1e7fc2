"""Writes the pages that the code knows best: `python -m docs.generate`. Pages written by hand are not touched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from service.settings import Settings

FOLDER = Path(__file__).resolve().parent
PROJECT = FOLDER.parent
UNITS = {
    "bytes": "bytes",
    "chars": "characters (code points)",
    "texts": "texts",
    "tokens": "word pieces",
    "connections": "connections",
    "threads": "threads",
    "ms": "milliseconds",
    "s": "seconds",
    "fraction": "a share",
}
"""Of a setting, by the last word of its name."""

OTHER_VARIABLES = {
    "NER_URL": "`python -m service ask`: the server to ask, unless `--url` names one; else http://127.0.0.1:8000",
    "NER_API_KEY": "also `python -m service ask` and the traffic of `--profile load`: the key that they send",
    "NER_CPUS": "Compose: cores of the container `ner`, 2 by default",
    "PROMETHEUS_PORT": "Compose: port on the loopback, 9090 by default",
    "GRAFANA_PORT": "Compose: port on the loopback, 3000 by default",
    "GF_SECURITY_ADMIN_PASSWORD": "Compose: Grafana's password; `admin` by default, which it asks to change",
    "LOAD_PEAK_RATE": "Compose, `--profile load`: requests a second at the dinner hour, 60 by default",
    "TORCH_INDEX_URL": "`make` and image builds: where PyTorch comes from; its CPU build by default",
    "NER_E2E_REQUIRE_DOCKER": "`make e2e`: with 1, a machine without a Docker engine is a failure",
    "WEB_CONCURRENCY": "a start with more than 1 is refused: one process serves one model on one device",
}
"""What is read elsewhere than in Settings, and by whom."""


_CONFIGURATION = """\
# Configuration

The server is configured by environment variables, read once at its start: `NER_PORT=9000 make serve`. A value that
does not fit ends the start with a message that names the variable. What can be changed while it runs is the
[exit policy](exit-policy.md).

(Written by `make docs` from `service/settings.py`.)

| variable | default | values | meaning and reason |
|---|---|---|---|
{settings}

## Other variables

These are not the server's settings; who reads them stands first.

| variable | meaning |
|---|---|
{others}
"""


def configuration() -> str:
    """configuration.md: every setting, and every other variable that anything of ours reads."""
    settings = [_row(f"`NER_{name.upper()}`", *_cells(name, field)) for name, field in Settings.model_fields.items()]
    others = [_row(f"`{name}`", meaning) for name, meaning in OTHER_VARIABLES.items()]
    return _CONFIGURATION.format(settings="\n".join(settings), others="\n".join(others))


def _cells(name: str, field: FieldInfo) -> tuple[str, str, str]:
    return _default(field.default), _values(name, field), str(field.description)


def _default(value: Any) -> str:
    if isinstance(value, Path) and value.is_absolute():
        value = value.relative_to(PROJECT)
    if value == "":
        return "unset"
    return f"`{value}`"


def _values(name: str, field: FieldInfo) -> str:
    """The choices, or the unit and the range."""
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(field.annotation))
    if field.annotation is Path:
        return "a folder"
    if field.annotation is str:
        return "text"
    unit = UNITS.get(name.rpartition("_")[2], "a number")
    return f"{unit}, {_range(field)}"


def _range(field: FieldInfo) -> str:
    bounds = {
        kind: getattr(limit, kind) for limit in field.metadata for kind in ("ge", "gt", "le") if hasattr(limit, kind)
    }
    if "ge" in bounds and "le" in bounds:
        return f"{bounds['ge']} to {bounds['le']}"
    return f"more than {bounds['gt']}" if "gt" in bounds else f"at least {bounds['ge']}"


def _row(*cells: str) -> str:
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


PAGES: Mapping[str, Callable[[], str]] = {"configuration.md": configuration}


def main() -> None:
    """Write every page, and say which."""
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")
        print(FOLDER / name)


if __name__ == "__main__":
    main()
