"""The PromQL of Grafana's dashboards, with Grafana's variables filled in as it would. No test lives here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# With a scrape every 5 s Grafana takes four of them for a rate; the other two depend on what somebody looks at.
_OF_GRAFANA = {"__rate_interval": "20s", "__interval": "15s", "__range": "5m"}


@dataclass(frozen=True, slots=True)
class Query:
    """One expression of a panel, or of an annotation."""

    dashboard: str
    title: str
    expression: str

    def __str__(self) -> str:
        return f"{self.dashboard}, {self.title}: {self.expression}"


def read_queries(folder: Path) -> list[Query]:
    """Every expression of every dashboard in a folder. A variable of the dashboard's stands for all its values."""
    queries = []
    for file in sorted(folder.glob("*.json")):
        dashboard = json.loads(file.read_text(encoding="utf-8"))
        annotations = dashboard.get("annotations", {}).get("list", [])
        marks = [{"title": mark["name"], "targets": [mark]} for mark in annotations]
        for title, expression in _expressions(dashboard["panels"] + marks):
            queries.append(Query(file.stem, title, _fill(expression)))
    return queries


def _expressions(panels: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for panel in panels:
        for target in panel.get("targets", []):
            if "expr" in target:
                yield panel["title"], target["expr"]
        yield from _expressions(panel.get("panels", []))


def _fill(expression: str) -> str:
    return re.sub(r"\$\{?([A-Za-z_]\w*)(:\w+)?\}?", lambda found: _OF_GRAFANA.get(found[1], ".*"), expression)
