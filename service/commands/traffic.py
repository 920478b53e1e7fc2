"""What `calibrate --from-traffic` does: reads samples of a running server, fits points to them, and installs these."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import httpx2 as httpx

from service.api.keys import read_key
from service.errors import BadInput, ServiceError
from service.evaluation.traffic import JUDGED_AT, Cuts, TrafficFit, fit_to_traffic, points_of
from service.exits.policies.learned import ExitRule, Learned
from service.promise.records import SampleRecords

LEAST_GAIN = 0.02  # of the layers saved, below which the points that there are stay
TIMEOUT_S = 60.0
Point = Mapping[str, Any]


class ServerRefused(ServiceError):
    """A server did not answer, or not as expected; the message says what it said."""


class TrafficServer:
    """A running server: what it has sampled, and its operating points."""

    def __init__(self, url: str, transport: httpx.BaseTransport | None = None) -> None:
        """The admin key is NER_ADMIN_KEY, or in the file NER_ADMIN_KEY_FILE. Raises BadInput where there is none."""
        key = read_key("NER_ADMIN_KEY", os.environ.get("NER_ADMIN_KEY", ""), os.environ.get("NER_ADMIN_KEY_FILE", ""))
        if not key:
            raise BadInput(
                "--from-traffic needs the server's admin key: set NER_ADMIN_KEY, or NER_ADMIN_KEY_FILE to a file that "
                "has it, such as state/admin_key"
            )
        headers = {"Authorization": f"Bearer {key}"}
        self._url = url.rstrip("/")
        self._http = httpx.Client(headers=headers, timeout=TIMEOUT_S, transport=transport, trust_env=False)

    def read(self, path: str) -> httpx.Response:
        """Return the answer to GET. Raises ServerRefused."""
        return self._ask("GET", path)

    def send(self, method: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the JSON of the answer. Raises ServerRefused."""
        found: dict[str, Any] = self._ask(method, path, json=body).json()
        return found

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _ask(self, method: str, path: str, **body: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, f"{self._url}{path}", **body)
        except (httpx.RequestError, httpx.InvalidURL) as error:
            raise ServerRefused(f"{self._url} did not answer: {error}; is it a running server?") from error
        if answer.status_code >= 300:
            raise ServerRefused(f"{method} {self._url}{path} got {answer.status_code}: {answer.text[:500]}")
        return answer


def calibrate_from_traffic(server: TrafficServer) -> str:
    """Fit operating points to a server's samples, and install them where they save more layers. Returns what to print.

    Raises ServerRefused, BadInput, and DataRefused for too few samples.
    """
    told: dict[str, Any] = server.read("/exit-policy/fits").json()
    measured: list[Point] = server.read("/exit-policy/operating-points").json()
    records = SampleRecords.from_bytes(server.read("/exit-policy/samples").content)
    before = _before(told, measured, records.num_layers)
    fit = fit_to_traffic(records, before)
    points = points_of(records, fit.cuts, measured, records.num_layers)
    lines = [*_compared(records, fit), *_table(points)]
    if fit.gain < LEAST_GAIN:
        return "\n".join([*lines, "", "nothing was installed: that is no clear gain"])
    provenance = {
        "command": "python -m service calibrate --from-traffic URL",
        "reference": "full depth's answers",
        "samples": len(records),
        "entities": int(records.correct[:, -1].sum()),
        "rule": "fitted to the traffic" if fit.is_rule_new else "as it was",
        "layers_saved_before": round(fit.saved_before, 3),
        "layers_saved": round(fit.saved, 3),
    }
    body = {"rule": fit.cuts.rule.to_json(), "points": points, "provenance": provenance}
    number = server.send("POST", "/exit-policy/fits", body)["in_force"]
    return "\n".join([*lines, "", f"installed as fit {number}; `--back` puts in force what there was before it"])


def go_back(server: TrafficServer) -> str:
    """Put the fit before the one in force in force, or the model's own points alone. Returns what to print."""
    told = server.read("/exit-policy/fits").json()
    earlier = [fit["fit"] for fit in told["fits"] if fit["fit"] < told["in_force"]]
    number = max(earlier, default=0)
    server.send("PATCH", "/exit-policy/fits", {"in_force": number})
    return f"fit {number} is in force" if number else "the model's own operating points are in force, and no others"


def _before(told: Mapping[str, Any], measured: list[Point], num_layers: int) -> list[Cuts]:
    """Return the points of the learned rule that there are: the model's own, and those of the fit in force.

    Raises BadInput for a model that has none.
    """
    own = [point["parameters"] for point in measured if point["parameters"]["strategy"] == Learned.strategy]
    if told["rule"] is None or not own:
        raise BadInput(f"{told['model']} has no operating points of the learned rule; calibrate it on dev data first")
    depths = [parameters["deepest_exit"] for parameters in own]
    deepest = min(max(depths, key=depths.count), num_layers - 1)
    found = [Cuts(ExitRule.from_json(told["rule"], num_layers), _taus(own), deepest)]
    for fit in told["fits"]:
        if fit["fit"] == told["in_force"]:
            parameters = [point["parameters"] for point in fit["points"]]
            found.append(Cuts(ExitRule.from_json(fit["rule"], num_layers), _taus(parameters), deepest))
    return found


def _taus(parameters: list[Point]) -> tuple[float, ...]:
    return tuple(sorted({one["tau"] for one in parameters}))


def _compared(records: SampleRecords, fit: TrafficFit) -> list[str]:
    wishes = ", ".join(f"{wish:g}" for wish in JUDGED_AT)
    return [
        f"{len(records)} samples; {'the rule and thresholds were' if fit.is_rule_new else 'thresholds were'} fitted.",
        f"Layers saved within a disagreement of {wishes}, in the mean, on samples that were not fitted to: "
        f"{fit.saved:.2f}, by the points there are {fit.saved_before:.2f}",
    ]


def _table(points: list[dict[str, Any]]) -> list[str]:
    lines = ["", "layers (95 %)         disagreement (95 %)     tau"]
    for point in points:
        (low, high), (least, most) = point["average_exit_layer_interval"], point["f1_loss_interval"]
        depth = f"{point['average_exit_layer']:5.2f} ({low:.2f}-{high:.2f})"
        lines.append(f"{depth}   {point['f1_loss'] / 100:8.4f} ({least / 100:.4f}-{most / 100:.4f})   {point['tau']:g}")
    return lines
