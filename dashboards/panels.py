"""Builders of the kinds of panel that the dashboards use. What only one panel needs is set where it is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import NamedTuple, TypeVar

from grafana_foundation_sdk.builders import bargauge, common, dashboard, heatmap, prometheus, stat, statetimeline
from grafana_foundation_sdk.builders import timeseries as lines
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode, HeatmapColorScale
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

GREEN, YELLOW, ORANGE, RED, BLUE, PURPLE = "green", "yellow", "orange", "red", "blue", "purple"
SOURCE = common_models.DataSourceRef(type_val="prometheus", uid="${datasource}")

AnyPanel = TypeVar("AnyPanel", stat.Panel, lines.Panel, heatmap.Panel, bargauge.Panel, statetimeline.Panel)
Steps = Sequence[tuple[float | None, str]]  # a colour from each value on; the first has no value


class Query(NamedTuple):
    """An expression, and the name of its series, in which {{label}} stands for a label's value."""

    expression: str
    legend: str = "__auto"


def target(query: Query, ref_id: str = "A") -> prometheus.Dataquery:
    """Return a query over the time that the dashboard shows."""
    made = prometheus.Dataquery().datasource(SOURCE).ref_id(ref_id)
    return made.expr(query.expression).legend_format(query.legend).range()


def figure(
    title: str,
    description: str,
    query: Query,
    *,
    unit: str = "none",
    decimals: int = 0,
    steps: Steps = ((None, BLUE),),
    unknown: str = "no data",
    sparkline: bool = False,
) -> stat.Panel:
    """Return a panel with one number in large type: the value now or, with a sparkline, the last value and its past.

    unknown: the text that is shown if there is no number
    """
    made, graph = target(query), common_models.BigValueGraphMode
    nothing = models.DashboardSpecialValueMapOptions(
        models.SpecialValueMatch.NULL_AND_NAN, models.ValueMappingResult(unknown)
    )
    thresholds = [models.Threshold(value, colour) for value, colour in steps]
    return (
        _titled(stat.Panel(), title, description)
        .with_target(made if sparkline else made.instant())
        .unit(unit)
        .decimals(decimals)
        .thresholds(dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(thresholds))
        .color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.THRESHOLDS))
        .mappings([models.SpecialValueMap(nothing)])
        .no_value(unknown)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .color_mode(common_models.BigValueColorMode.VALUE)
        .graph_mode(graph.AREA if sparkline else graph.NONE)
    )


def in_words(panel: stat.Panel, *words: tuple[str, str]) -> stat.Panel:
    """Make a panel show these words, each in its colour, for 0, 1, ..."""
    results = {str(value): models.ValueMappingResult(text, colour) for value, (text, colour) in enumerate(words)}
    return panel.mappings([models.ValueMap(results)])


def over_time(title: str, description: str, *queries: Query, unit: str) -> lines.Panel:
    """Return a panel with lines over time, and their last values below."""
    legend = common.VizLegendOptions().show_legend(True).display_mode(common_models.LegendDisplayMode.LIST)
    tooltip = common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.MULTI)
    return (
        _titled(lines.Panel(), title, description)
        .targets([target(query, ref_id) for ref_id, query in zip(ascii_uppercase, queries, strict=False)])
        .unit(unit)
        .min(0)
        .line_width(2)
        .fill_opacity(8)
        .show_points(common_models.VisibilityMode.NEVER)
        .legend(legend.placement(common_models.LegendPlacement.BOTTOM).calcs(["lastNotNull"]))
        .tooltip(tooltip.sort(common_models.SortOrder.DESCENDING))
    )


def stacked(panel: lines.Panel) -> lines.Panel:
    """Stack the lines of a panel, as parts of a whole."""
    return (
        panel.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL)).fill_opacity(40).line_width(1)
    )


def stepped(panel: lines.Panel) -> lines.Panel:
    """Draw the lines of a panel in steps, since a value holds until it is changed."""
    return panel.line_interpolation(common_models.LineInterpolation.STEP_AFTER)


def coloured(panel: lines.Panel, colours: Mapping[str, str]) -> lines.Panel:
    """Colour the lines whose whole names match these patterns."""
    for pattern, colour in colours.items():
        _override(panel, pattern, {"color": models.FieldColor(models.FieldColorModeId.FIXED, colour)})
    return panel


def with_limit(panel: lines.Panel, pattern: str) -> lines.Panel:
    """Draw the lines that match a pattern red and dashed, as the limit of the others."""
    dashes = common_models.LineStyle("dash", [10, 10])
    return _override(coloured(panel, {pattern: RED}), pattern, {"custom.lineStyle": dashes, "custom.fillOpacity": 0})


def on_the_right(panel: lines.Panel, pattern: str, unit: str) -> lines.Panel:
    """Draw the lines that match a pattern against an axis of their own, on the right."""
    return _override(panel, pattern, {"unit": unit, "custom.axisPlacement": common_models.AxisPlacement.RIGHT})


def density(title: str, description: str, buckets: str) -> heatmap.Panel:
    """Return a panel with a histogram over time; `buckets` is an expression by `le`."""
    colour = heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").steps(64)
    return (
        _titled(heatmap.Panel(), title, description)
        .with_target(target(Query(buckets, "{{le}}")).format(PromQueryFormat.HEATMAP))
        .color(colour.scale(HeatmapColorScale.EXPONENTIAL).exponent(0.5))
        .tooltip(heatmap.HeatmapTooltip().mode(common_models.TooltipDisplayMode.SINGLE).y_histogram(True))
    )


def distribution(title: str, description: str, buckets: str) -> bargauge.Panel:
    """Return a panel with a histogram of the whole time shown; `buckets` is an expression by `le`."""
    return (
        _titled(bargauge.Panel(), title, description)
        .with_target(target(Query(buckets, "{{le}}")).format(PromQueryFormat.HEATMAP).instant())
        .unit("short")
        .min(0)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .orientation(common_models.VizOrientation.HORIZONTAL)
        .display_mode(common_models.BarGaugeDisplayMode.GRADIENT)
        .color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.CONTINUOUS_BL_PU))
    )


def states(title: str, description: str, query: Query) -> statetimeline.Panel:
    """Return a panel that shows which of several series existed when."""
    return (
        _titled(statetimeline.Panel(), title, description)
        .with_target(target(query))
        .show_value(common_models.VisibilityMode.NEVER)
        .legend(common.VizLegendOptions().show_legend(False))
        .color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.FIXED).fixed_color(BLUE))
    )


def _titled(panel: AnyPanel, title: str, description: str) -> AnyPanel:
    return panel.title(title).description(description).datasource(SOURCE)


def _override(panel: lines.Panel, pattern: str, properties: Mapping[str, object]) -> lines.Panel:
    values = [models.DynamicConfigValue(key, value) for key, value in properties.items()]
    return panel.override_by_regexp(pattern, values)
