"""Builds a whole dashboard as JSON: its panels laid out in rows, its variables, its annotations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models

from dashboards.panels import ORANGE, SOURCE, Query, target
from dashboards.queries import series

COLUMNS = 24  # of Grafana's grid
TAG = "ner"


class Cell(NamedTuple):
    """A panel and its size, in columns and rows of the grid."""

    panel: Builder[models.Panel]
    width: int
    height: int


class Row(NamedTuple):
    """A part of a dashboard, with a heading above its panels."""

    title: str
    cells: Sequence[Cell]


def lay_out(rows: Sequence[Row]) -> Iterator[models.Panel | models.RowPanel]:
    """Yield headings and panels, numbered from 1. A panel takes the highest free place, and the leftmost of these."""
    bottoms = [0] * COLUMNS
    number = 0
    for row in rows:
        number += 1
        top = max(bottoms)
        yield dashboard.Row(row.title).id(number).grid_pos(models.GridPos(1, COLUMNS, 0, top)).build()
        bottoms = [top + 1] * COLUMNS
        for cell in row.cells:
            number += 1
            places = [(max(bottoms[x : x + cell.width]), x) for x in range(COLUMNS - cell.width + 1)]
            y, x = min(places)
            bottoms[x : x + cell.width] = [y + cell.height] * cell.width
            panel = cell.panel.build()
            panel.id_val, panel.grid_pos = number, models.GridPos(cell.height, cell.width, x, y)
            yield panel


def policy_changes() -> dashboard.AnnotationQuery:
    """Return the annotation that marks every change of the exit policy: who made it, and the new version and strategy.

    The version is a gauge; count_values turns it into a label, so that the mark can show it.
    """
    changed = f"sum by (source) (increase({series('ner_exit_policy_changes_total')}[$__rate_interval])) > 0"
    version = f'count_values("version", max({series("ner_exit_policy_version")}))'
    strategy = f"topk(1, {series('ner_exit_policy_info')})"
    expression = f"({changed}) * on () group_left (version) {version} * on () group_left (strategy) {strategy}"
    return (
        dashboard.AnnotationQuery()
        .name("Policy changes")
        .datasource(SOURCE)
        .enable(True)
        .icon_color(ORANGE)
        .expr(expression)  # older versions of Grafana look for it here
        # the steps are 15 s and the rate interval is 20 s: no change falls between two steps
        .target(target(Query(expression), "Anno").interval("15s"))
        .title_format("Policy changed by {{source}}")
        .text_format("version {{version}}, {{strategy}}")
    )


def to_json(title: str, uid: str, description: str, rows: Sequence[Row]) -> str:
    """Return the dashboard as JSON, as Grafana reads it from a file."""
    source = dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
    model = (
        dashboard.QueryVariable("model")
        .label("Model")
        .datasource(SOURCE)
        .query("label_values(ner_build_info, model_name)")
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
    )
    others = (
        dashboard.DashboardLink("Other dashboards")
        .type(models.DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .include_vars(True)
        .keep_time(True)
    )
    made = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .time("now-30m", "now")
        .refresh("10s")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .variables([source, model])
        .annotation(policy_changes())
        .link(others)
        .build()
    )
    made.panels = list(lay_out(rows))
    text: str = JSONEncoder(indent=2).encode(made)
    return f"{text}\n"
