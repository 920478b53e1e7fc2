"""Writes the pages that follow from the code: `python -m docs.generate`. Pages written by hand are not touched."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from service.exits.assets import ModelAssets
from service.exits.parameters import Choice, Count, Number, Parameter
from service.exits.policies import STRATEGIES
from service.exits.policy import ExitPolicy
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
"""The unit of a setting, by the last word of its name."""

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
"""Variables that are not read by Settings: who reads each one, and what for."""


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
    """Return configuration.md: every setting, and every other variable that some part of the project reads."""
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
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _values(name: str, field: FieldInfo) -> str:
    """Return what a setting accepts: its choices, or its unit and range."""
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(field.annotation))
    if field.annotation is Path:
        return "a folder"
    if field.annotation is str:
        return "text"
    if field.annotation is bool:
        return "`true`, `false`"
    unit = UNITS.get(name.rpartition("_")[2], "a number")
    return f"{unit}, {_range(field)}"


def _range(field: FieldInfo) -> str:
    bounds = {
        kind: getattr(limit, kind) for limit in field.metadata for kind in ("ge", "gt", "le") if hasattr(limit, kind)
    }
    if "ge" in bounds and "le" in bounds:
        return f"{bounds['ge']} to {bounds['le']}"
    return f"more than {bounds['gt']}" if "gt" in bounds else f"at least {bounds['ge']}"


_STRATEGIES = """\
# Exit strategies

A strategy says when a sequence leaves. It is chosen, and its parameters are set, by
[`PATCH /exit-policy`](exit-policy.md). What is left out takes the model's calibrated default, or the one below where
calibration knows none. `GET /exit-policy/strategies` says the same as this page of the model that is served, with its
own defaults and what it lacks. The words are in the [glossary](glossary.md).

(Written by `make docs` from `service/exits/policies`.)

**Which to take.** Presets and goals choose by measured time and F1; all presets of the shipped models are `learned`.
Under it a longer sentence must promise to mend more if it is to go on, as its layers take longer. `vee` is the paper's
strategy, with measure `kl` and pooling `mean`. `budgeted` is the static cut, which every other strategy has to beat.
What each is worth is in [results](results.md); for those by which words halt one by one, and for `de3`, in
[exits by word](word-level.md#which-strategy-when).

| `strategy` | from | in short |
|---|---|---|
{table}

A model trained under a hash has one exit for all layers, and supports only {under_hash}. What else a strategy
needs stands in its section; on a model that lacks it, `PATCH /exit-policy` answers 422 and says so.
`conll2003-minilm-tokee` is trained for `tokee` and `de3`, and for long texts:
`NER_MODEL=conll2003-minilm-tokee make serve`.

{sections}"""
_LAYERS = 6  # of the shipped models; no sentence of the page depends on it


def strategies() -> str:
    """Return strategies.md: every strategy, its parameters, and what it needs of a model."""
    table = [_row(f"[`{name}`](#{name})", one.origin, one.meaning) for name, one in STRATEGIES.items()]
    with_one_exit = ModelAssets(_LAYERS, has_one_exit=True)
    with_many = ModelAssets(_LAYERS)
    under_hash = [name for name, one in STRATEGIES.items() if one.lacks(with_one_exit) in (None, one.lacks(with_many))]
    return _STRATEGIES.format(
        table="\n".join(table),
        under_hash=" and ".join(f"`{name}`" for name in under_hash),
        sections="\n".join(_section(one) for one in STRATEGIES.values()),
    )


def _section(strategy: type[ExitPolicy]) -> str:
    defaults = strategy.defaults({})
    rows = [
        _row(f"`{name}`", _code(defaults[name]), _values_of(parameter), parameter.meaning)
        for name, parameter in strategy.parameters().items()
    ]
    table = ["| parameter | default | values | meaning |", "|---|---|---|---|", *rows, ""] if rows else []
    source = "" if strategy.origin in strategy.title else f" ({strategy.origin})"
    lines = [
        f"## `{strategy.strategy}`",
        "",
        f"**{strategy.title}**{source}. {strategy.meaning}",
        *_facts(strategy),
    ]
    return "\n".join([*lines, "", *table, *_variants(strategy)])


def _facts(strategy: type[ExitPolicy]) -> list[str]:
    """Return sentences on what a strategy needs, its exit reasons, and whether a trace suffices."""
    facts = []
    if lack := strategy.lacks(ModelAssets(_LAYERS)):
        facts.append(f"Needs {lack.partition(', which')[0]}.")
    if strategy.reasons:
        facts.append(f"Exit reason: {' or '.join(f'`{reason}`' for reason in strategy.reasons)}.")
    if not strategy.is_replayable:
        facts.append("A trace is not enough to know what it gives: it has to be run.")
    return facts


def _variants(strategy: type[ExitPolicy]) -> list[str]:
    """Return a table of the parameters whose values and defaults depend on others; for most strategies it is empty."""
    rows = []
    for policy in strategy.variants():
        when = [_code(getattr(policy, name)) for name in policy.calibrated_by]
        others = {name: policy.parameter(name) for name in policy.parameters() if name not in policy.calibrated_by}
        changed = {name: one for name, one in others.items() if one != policy.parameters()[name]}
        rows += [
            _row(*when, f"`{name}`", _code(getattr(policy, name)), _values_of(parameter))
            for name, parameter in changed.items()
        ]
    if not rows:
        return []
    heads = [*(f"`{name}`" for name in strategy.calibrated_by), "parameter", "default", "values"]
    return [_row(*heads), f"|{'---|' * len(heads)}", *rows, ""]


def _values_of(parameter: Parameter) -> str:
    """Return what a parameter accepts: its choices, or its range and unit."""
    if isinstance(parameter, Choice):
        return ", ".join(f"`{choice}`" for choice in parameter.choices)
    values = "`true`, `false`"
    if isinstance(parameter, Count):
        values = f"{'odd, ' if parameter.is_odd else ''}at least {parameter.lowest}"
    elif isinstance(parameter, Number):
        bounds = f"{_plain(parameter.lowest)} to {_plain(parameter.highest)}"
        values = f"at most {_plain(parameter.highest)}" if math.isinf(parameter.lowest) else bounds
    return f"{values} ({parameter.unit})" if parameter.unit else values


def _plain(number: float) -> str:
    return f"{number:,.0f}" if float(number).is_integer() else f"{number:.3f}"


def _code(value: object) -> str:
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _row(*cells: str) -> str:
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


PAGES: Mapping[str, Callable[[], str]] = {"configuration.md": configuration, "strategies.md": strategies}


def main() -> None:
    """Write every page, and print its path."""
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")
        print(FOLDER / name)


if __name__ == "__main__":
    main()
