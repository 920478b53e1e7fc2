"""The exit policy in force: its parameters, what calibration expects of it, what was observed, who changed it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

from service.metrics.series import Series, or_nan

MovedTo = Literal["faster", "slower"]
_EXPECTED = {
    "f1": "F1 x 100 of the policy in force",
    "f1_loss": "F1 x 100 of full depth minus that of the policy in force",
    "average_exit_layer": "Average exit layer (layers run per sequence) of the policy in force",
    "speedup_latency": "Time of full depth / time of the policy in force",
}


class PolicyMetrics:
    """The series of the exit policy, written by the API."""

    def __init__(self, series: Series) -> None:
        self._model_name = series.model_name
        self._tau = series.gauge("ner_exit_policy_tau", "tau in force; NaN for a strategy without one")
        self._patience = series.gauge("ner_exit_policy_patience", "patience in force; NaN for a strategy without one")
        self._version = series.gauge("ner_exit_policy_version", "Version of the policy in force")
        self._expected = {
            field: series.gauge(f"ner_exit_policy_expected_{field}", f"{text}, by calibration; NaN where not measured")
            for field, text in _EXPECTED.items()
        }
        self._info = series.facts("ner_exit_policy_info", "The strategy in force", "strategy", "measure")
        self._changes = series.counters(
            "ner_exit_policy_changes", "Changes of the policy", "source", across="max"
        )  # every process follows every change
        for source in ("api", "autopilot", "promise"):
            self._changes(source)

        self._store = series.gauge(
            "ner_policy_store_up", "1 if the store of the policy could be used the last time, so that it can be changed"
        )
        self._autopilot = series.gauge("ner_autopilot_enabled", "1 while the autopilot is on")
        self._objective = series.gauge("ner_autopilot_objective_p95_seconds", "p95 that it is to keep; NaN while off")
        self._level = series.gauge(
            "ner_autopilot_level",
            "0: the most accurate point that the autopilot may use; each step up one point faster",
        )
        self._moves = series.counters("ner_autopilot_moves", "Moves of the autopilot", "direction")
        for direction in get_args(MovedTo):
            self._moves(direction)

        self._disagreement_bound = series.gauge(
            "ner_shadow_disagreement_bound",
            "Upper bound (95 %) of the share of early leavers, under the policy in force, with other entities at full "
            "depth; NaN before any run",
        )
        self._speedup = series.gauge(
            "ner_speedup_layers", "Layers of the model / average exit layer under the policy in force"
        )

    def set_in_force(
        self,
        parameters: Mapping[str, Any],
        *,
        version: int,
        expected: Mapping[str, float] | None,
        objective_p95_s: float | None,
        level: int,
    ) -> None:
        """Show the policy that is in force from now on.

        parameters       its strategy, and tau, patience and measure if it has them
        expected         what calibration measured for it; None if it was not measured
        objective_p95_s  the p95 that the autopilot keeps, in seconds; None while it is off
        level            the autopilot's level; 0 while it is off
        """
        self._tau.set(parameters.get("tau", math.nan))
        self._patience.set(parameters.get("patience", math.nan))
        self._version.set(version)
        for field, gauge in self._expected.items():
            gauge.set(or_nan(None if expected is None else expected[field]))
        self._info.clear()
        self._info.labels(self._model_name, parameters["strategy"], parameters.get("measure", "")).set(1)
        self._autopilot.set(objective_p95_s is not None)
        self._objective.set(or_nan(objective_p95_s))
        self._level.set(level)

    def changed(self, source: str) -> None:
        """Count a change of the policy by its source."""
        self._changes(source).inc()

    def set_store_up(self, is_up: bool) -> None:
        """Show whether the store of the policy could be used the last time."""
        self._store.set(is_up)

    def autopilot_moved(self, direction: MovedTo) -> None:
        """Count a move of the autopilot to another of its levels."""
        self._moves(direction).inc()

    def set_observed(self, *, speedup_layers: float | None, disagreement_bound: float | None) -> None:
        """Show what was observed under the policy; called before every scrape. None stands for unknown."""
        self._speedup.set(or_nan(speedup_layers))
        self._disagreement_bound.set(or_nan(disagreement_bound))
