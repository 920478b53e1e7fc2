"""Low load, for `benchmarks.load`: what HTTP adds to the engine, beside the server's own timing.

The same texts go, one at a time and paced, over HTTP and through an engine in this process. The two take turns round by
round, so that other work of the machine affects both alike. The engine's seconds do not contain tokenising.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.engines import PolicyInForce
from benchmarks.load_trials import DISTURBED_CORES, Seen, Stand, arrivals, figures
from service.engine.engine import Engine
from service.engine.sequence import Request
from service.exits.policy import ExitPolicy
from service.text.types import EncodedText

ROUNDS = 3
GRACE_S = 2.0


@dataclass(slots=True)
class EngineHere:
    """An engine in this process, and the texts that the client sends, split as the server splits them."""

    engine: Engine
    in_force: PolicyInForce
    policies: dict[str, ExitPolicy]
    texts: list[EncodedText]

    def p50_ms(self, policy: str, order: Sequence[int], due: Sequence[float] | None = None) -> float:
        """Return the median milliseconds of texts, one at a time; with `due`, none is submitted before it is due."""
        self.in_force.policy = self.policies[policy]
        start, waits = time.monotonic(), []
        for position, index in enumerate(order):
            if due is not None:
                time.sleep(max(0.0, start + due[position] - time.monotonic()))
            request = Request((self.texts[index],), deadline=float("inf"), submitted=0.0)
            submitted = time.monotonic()
            self.engine.submit(request)
            request.future.result()
            waits.append(1_000 * (time.monotonic() - submitted))
        return statistics.median(waits)


def low_load(stand: Stand, engine: EngineHere, *, count: int, rate: float, seconds: float, seed: int) -> dict[str, Any]:
    """Return one competitor's row: medians over rounds of each round's p50, in ms."""
    rounds = []
    for turn in range(ROUNDS):
        order = list(range(count))
        alone = stand.closed(order)
        paced = stand.open([(rate, seconds)], seed + turn, GRACE_S)
        row = {"http_closed_ms": _closed_p50_ms(alone), "http_paced_ms": figures(paced).p50_ms}
        row |= {f"server_{stage}_ms": value for stage, value in stages_ms(alone).items()}
        row["server_total_paced_ms"] = stages_ms(paced).get("total", 0.0)
        row["cores_others"] = max(alone.cores.others, paced.cores.others)
        if stand.name in engine.policies:
            due = arrivals([(rate, seconds)], seed + turn)
            row["engine_closed_ms"] = engine.p50_ms(stand.name, order)
            row["engine_paced_ms"] = engine.p50_ms(stand.name, [index % count for index in range(len(due))], due)
        rounds.append(row)
    row = {name: statistics.median(turn[name] for turn in rounds) for name in rounds[0]}
    for kind in ("closed", "paced"):
        if f"engine_{kind}_ms" in row:
            row[f"http_minus_engine_{kind}_ms"] = row[f"http_{kind}_ms"] - row[f"engine_{kind}_ms"]
    return {"competitor": stand.name, "rate": rate, **row, "disturbed": row["cores_others"] > DISTURBED_CORES}


def _closed_p50_ms(seen: Seen) -> float:
    report = seen.report
    return statistics.median(1_000 * (done - due) for done, due in zip(report.done, report.due, strict=True))


_STAGE = re.compile(r"([a-z]+);dur=([0-9.]+)")


def stages_ms(seen: Seen) -> dict[str, float]:
    """Return the median milliseconds of every stage that the server's Server-Timing names."""
    stages: dict[str, list[float]] = {}
    for timing in seen.report.timing:
        for stage, value in _STAGE.findall(timing):
            stages.setdefault(stage, []).append(float(value))
    return {stage: statistics.median(values) for stage, values in stages.items()}
