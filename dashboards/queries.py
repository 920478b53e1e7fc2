"""PromQL for the dashboards: one function per form of query. The dashboards choose the metrics."""

from __future__ import annotations

MODEL = 'model_name=~"$model"'  # every series of the service has it; the dashboards show one model at a time
ANSWERS = 'endpoint=~"/|/ner"'  # requests for entities: health checks and scrapes would lower the shares
DEFAULT_P95_S = 0.1  # the objective if the autopilot has none


def series(metric: str, *matchers: str) -> str:
    """Return a metric of the chosen model."""
    return f"{metric}{{{', '.join((MODEL, *matchers))}}}"


def total(metric: str) -> str:
    """Return the sum of a gauge over all instances."""
    return f"sum({series(metric)})"


def per_second(metric: str, *matchers: str, by: str = "") -> str:
    """Return the rate of a counter over all instances, for each value of the label `by`."""
    grouping = f" by ({by}) " if by else ""
    return f"sum{grouping}(rate({series(metric, *matchers)}[$__rate_interval]))"


def lately(metric: str) -> str:
    """Return how many rare events a counter counted in 5 minutes, over all instances."""
    return f"sum(increase({series(metric)}[5m]))"


def mean(histogram: str) -> str:
    """Return the mean of what a histogram observed."""
    return f"{per_second(histogram + '_sum')} / {per_second(histogram + '_count')}"


def quantile(share: float, histogram: str) -> str:
    """Return a quantile of what a histogram observed."""
    return f"histogram_quantile({share}, {per_second(histogram + '_bucket', by='le')})"


def buckets(histogram: str, window: str) -> str:
    """Return observations by bucket; a bound that is a whole number is written as one: 1, not 1.0."""
    bounded = series(f"{histogram}_bucket", 'le!="+Inf"')
    return f'label_replace(sum by (le) (increase({bounded}[{window}])), "le", "$1", "le", "(.+)[.]0")'


def of_process(expression: str) -> str:
    """Return a metric of the process, which has no model_name, for processes that serve the chosen model."""
    return f"{expression} * on (job, instance) group_left (model_name) {series('ner_build_info')}"


def side_by_side(**figures: str) -> str:
    """Return several gauges in one query, told apart by the label `figure`."""
    return " or ".join(f'label_replace({gauge}, "figure", "{name}", "", "")' for name, gauge in figures.items())


def objective_p95() -> str:
    """Return the p95 to keep, in seconds: the autopilot's, else the default."""
    wanted = series("ner_autopilot_objective_p95_seconds")
    return f"max(({wanted} > 0) or ({DEFAULT_P95_S} + 0 * {series('ner_engine_up')}))"
