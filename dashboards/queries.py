"""PromQL for the dashboards: one function a shape of question. Which questions are asked is said in the dashboards."""

from __future__ import annotations

MODEL = 'model_name=~"$model"'  # every series of the service has it; the dashboards show one model at a time
ANSWERS = 'endpoint=~"/|/ner"'  # requests for entities: health checks and scrapes would water the shares down
DEFAULT_P95_S = 0.1  # the objective where the autopilot has none


def series(metric: str, *matchers: str) -> str:
    """A metric of the chosen model."""
    return f"{metric}{{{', '.join((MODEL, *matchers))}}}"


def total(metric: str) -> str:
    """A gauge over all instances."""
    return f"sum({series(metric)})"


def per_second(metric: str, *matchers: str, by: str = "") -> str:
    """The rate of a counter over all instances, for each value of the label `by`."""
    grouping = f" by ({by}) " if by else ""
    return f"sum{grouping}(rate({series(metric, *matchers)}[$__rate_interval]))"


def lately(metric: str) -> str:
    """What a counter of rare events counted in 5 minutes, over all instances."""
    return f"sum(increase({series(metric)}[5m]))"


def mean(histogram: str) -> str:
    """The mean of what a histogram observed."""
    return f"{per_second(histogram + '_sum')} / {per_second(histogram + '_count')}"


def quantile(share: float, histogram: str) -> str:
    """A quantile of what a histogram observed."""
    return f"histogram_quantile({share}, {per_second(histogram + '_bucket', by='le')})"


def buckets(histogram: str, window: str) -> str:
    """Observations by bucket; a bound that is a whole number is written as one: 1, not 1.0."""
    bounded = series(f"{histogram}_bucket", 'le!="+Inf"')
    return f'label_replace(sum by (le) (increase({bounded}[{window}])), "le", "$1", "le", "(.+)[.]0")'


def of_process(expression: str) -> str:
    """A metric of the process, which has no model_name, where the process serves the chosen model."""
    return f"{expression} * on (job, instance) group_left (model_name) {series('ner_build_info')}"


def side_by_side(**figures: str) -> str:
    """Several gauges in one query, told apart by the label `figure`."""
    return " or ".join(f'label_replace({gauge}, "figure", "{name}", "", "")' for name, gauge in figures.items())


def objective_p95() -> str:
    """The p95 that is wanted, in seconds: the autopilot's, else the default."""
    wanted = series("ner_autopilot_objective_p95_seconds")
    return f"max(({wanted} > 0) or ({DEFAULT_P95_S} + 0 * {series('ner_engine_up')}))"
