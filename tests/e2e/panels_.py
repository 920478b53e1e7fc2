"""Dashboards read as data: their panels' expressions, run against a live Prometheus. No test lives here."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
DASHBOARDS = tuple(PROJECT / "docker" / "grafana" / "dashboards" / f"{name}.json" for name in ("overview", "engine"))
DURATIONS = {"__rate_interval": "1m", "__interval": "15s", "__range": "5m"}


def load(dashboard: Path) -> dict[str, Any]:
    """A dashboard's JSON."""
    loaded: dict[str, Any] = json.loads(dashboard.read_text(encoding="utf-8"))
    return loaded


def panels_of(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every panel, those of collapsed rows included; rows themselves are none."""
    for panel in dashboard["panels"]:
        yield from (one for one in (panel, *panel.get("panels", ())) if one["type"] != "row")


def expressions(dashboard: dict[str, Any]) -> list[tuple[str, str]]:
    """Title and expression of every query of every panel."""
    return [(panel["title"], target["expr"]) for panel in panels_of(dashboard) for target in panel["targets"]]


def filled(expression: str, rate_interval: str = DURATIONS["__rate_interval"]) -> str:
    """An expression with Grafana's variables replaced: durations by durations, what a user picks by everything."""
    durations = {**DURATIONS, "__rate_interval": rate_interval}
    return re.sub(r"\$\{?([A-Za-z_]\w*)(?::\w+)?\}?", lambda found: durations.get(found[1], ".*"), expression)


def ask(prometheus_url: str, path: str, **parameters: str) -> Any:
    """The data of an answer of Prometheus's HTTP API. Raises ValueError with its message for an error."""
    url = f"{prometheus_url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return json.load(response)["data"]
    except urllib.error.HTTPError as error:
        raise ValueError(json.load(error)["error"]) from error


def query(prometheus_url: str, expression: str) -> dict[tuple[tuple[str, str], ...], float]:
    """What an expression, its variables replaced, is now: labels -> value. Raises ValueError."""
    result = ask(prometheus_url, "query", query=filled(expression))["result"]
    return {tuple(sorted(series["metric"].items())): float(series["value"][1]) for series in result}


def empty_panels(dashboard: Path, prometheus_url: str) -> list[str]:
    """Every query of a dashboard that gives nothing, only NaN, or an error: its panel, what is wrong, and the query."""
    wanting = []
    for title, expression in expressions(load(dashboard)):
        try:
            values = query(prometheus_url, expression).values()
        except ValueError as error:
            wanting.append(f"{title}: {error}: {expression}")
            continue
        if all(value != value for value in values):
            wanting.append(f"{title}: {'NaN' if values else 'nothing'}: {expression}")
    return wanting


def names_in(expression: str) -> set[str]:
    """The metrics that an expression names."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\b(by|on|group_left)\s*\([^)]*\)", "", bare)
    return set(re.findall(r"\b[A-Za-z_:][\w:]*\b(?!\s*\()", bare)) - {"or", "and"}


def labels_in(expression: str) -> set[str]:
    """The labels that an expression selects and groups by."""
    selected = re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"', expression)
    grouped = re.findall(r"\b(?:by|on|group_left)\s*\(([^)]*)\)", expression)
    return {*selected, *(name.strip() for names in grouped for name in names.split(",") if name.strip())}
