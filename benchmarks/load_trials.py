"""Trials of `benchmarks.load`: when requests arrive, how a server answered them, and the largest rate that it can keep.

The client that sends requests is in `benchmarks.load_client`, server processes are in `benchmarks.load_servers`.
"""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.load_client import NOT_ANSWERED, Plan, Report
from benchmarks.load_servers import Server

GOAL_MS = 100.0  # an answer within this time counts as good
MOST_REFUSED = 0.01
LATE_MS = 10.0  # if the client's 99th percentile of lateness is over this, it has measured itself
DISTURBED_CORES = 0.2  # if other processes took more than this, they have been measured, too
CLOSED_TIMEOUT_S = 120.0
PROBE_TIMEOUT_S = 3.0
WARM_UP_TEXTS = 60
CONFIRMATIONS = 3
LOWEST_RATE = 1.0

Phase = tuple[float, float]  # requests per second, seconds


class Client:
    """The client's process, to be used in `with`; `texts` are texts, or whole bodies of POST /ner."""

    def __init__(self, texts: Sequence[str | dict[str, Any]]) -> None:
        command = [sys.executable, "-m", "benchmarks.load_client"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._write(json.dumps(list(texts)))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is not None:
            self._process.kill()
        self._process.communicate()  # closes stdin, which ends it

    def carry_out(self, plan: Plan) -> Report:
        """Have the client carry out a plan, and return its report. Raises RuntimeError if the process has ended."""
        self._write(json.dumps(asdict(plan)))
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise RuntimeError("the client has ended")
        return Report(**json.loads(line))

    def _write(self, line: str) -> None:
        if self._process.stdin is not None:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()


@dataclass(slots=True)
class Cores:
    """How many cores server, client and all other processes of the machine used, on average over a trial."""

    server: float
    client: float
    others: float


@dataclass(slots=True)
class Seen:
    """What was seen in a trial: the client's report, and how the cores were used.

    seconds  how long requests arrived
    """

    report: Report
    seconds: float
    cores: Cores

    def latencies_ms(self) -> list[float]:
        """Return answer minus scheduled arrival of every 200, and infinity for requests without an answer; sorted.

        Refusals and errors are left out; their shares are figures of their own.
        """
        report = self.report
        rows = zip(report.due, report.done, report.status, strict=True)
        return sorted(
            1_000 * (done - due) if status == 200 else math.inf
            for due, done, status in rows
            if status in (200, NOT_ANSWERED)
        )


class Stand:
    """One competitor under load: its server process, which is replaced if it does not come to rest after a trial."""

    def __init__(self, name: str, start: Callable[[], Server], client: Client, num_texts: int) -> None:
        self.name = name
        self._start = start
        self._client = client
        self._num_texts = num_texts
        self._server = start()
        self._warm_up()

    def __enter__(self) -> Stand:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()

    def closed(self, texts: Sequence[int]) -> Seen:
        """Send texts one at a time, each when the one before it is answered."""
        return self._observe(list(texts), None, CLOSED_TIMEOUT_S)

    def open(self, phases: Sequence[Phase], seed: int, grace_s: float) -> Seen:
        """Send random texts at the times of a Poisson process; the same seed gives the same texts and times."""
        due = arrivals(phases, seed)
        draw = random.Random(seed)
        seen = self._observe([draw.randrange(self._num_texts) for _ in due], due, grace_s)
        seen.seconds = sum(seconds for _, seconds in phases)
        self._come_to_rest()
        return seen

    def _observe(self, texts: list[int], due: list[float] | None, grace_s: float) -> Seen:
        before, server_before, busy_before = time.monotonic(), self._server.cpu_s(), _busy_s()
        report = self._client.carry_out(Plan(self._server.port, texts, due, grace_s))
        seconds = time.monotonic() - before
        server = (self._server.cpu_s() - server_before) / seconds
        client = report.cpu_s / seconds
        others = (_busy_s() - busy_before) / seconds - server - client
        return Seen(report, seconds, Cores(server, client, max(0.0, others)))

    def _come_to_rest(self) -> None:
        """Wait until the server answers at once again; replace it if it has too much left to do."""
        report = self._client.carry_out(Plan(self._server.port, [0], None, PROBE_TIMEOUT_S))
        if report.status[0] != 200:
            self._server.close()
            self._server = self._start()
            self._warm_up()

    def _warm_up(self) -> None:
        seen = self.closed([index % self._num_texts for index in range(WARM_UP_TEXTS)])
        if seen.report.errors:
            raise SystemExit(f"{self.name} does not answer: {seen.report.errors}; see {self._server.log}")


def _busy_s() -> float:
    """Return the seconds, summed over cores, in which the machine was not idle."""
    user, nice, system, _, _, *rest = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def arrivals(phases: Iterable[Phase], seed: int) -> list[float]:
    """Return the seconds at which requests arrive by a Poisson process, phase after phase."""
    draw, due, start = random.Random(seed), [], 0.0
    for rate, seconds in phases:
        moment = start + draw.expovariate(rate)
        while moment < start + seconds:
            due.append(round(moment, 6))
            moment += draw.expovariate(rate)
        start += seconds
    return due


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the quantile of a sorted list by nearest rank; infinity for an empty list."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.inf


@dataclass(frozen=True, slots=True)
class DoubleArray:
    """What a trial comes to. Rates are per second, latencies from the scheduled arrival; infinite: no answer in time.

    answered        200s until the last one came
    refused, failed shares of 429, and of anything else that is no 200: other statuses, lost connections, no answer
    goodput         200s within GOAL_MS
    lateness_p99_ms the client's own: sent, minus scheduled
    """

    offered: float
    answered: float
    p50_ms: float
    p99_ms: float
    refused: float
    failed: float
    goodput: float
    lateness_p99_ms: float
    connections: int
    cores_server: float
    cores_client: float
    cores_others: float

    @property
    def is_late(self) -> bool:
        """Whether the client was so late that the trial does not count."""
        return self.lateness_p99_ms > LATE_MS

    @property
    def is_disturbed(self) -> bool:
        """Whether other processes used so much of the cores that it shows in the figures."""
        return self.cores_others > DISTURBED_CORES

    @property
    def keeps_goal(self) -> bool:
        """Whether p99 is within GOAL_MS, under one per cent was refused, nothing failed, and the client was in time."""
        return self.p99_ms <= GOAL_MS and self.refused < MOST_REFUSED and self.failed == 0 and not self.is_late


def figures(seen: Seen) -> DoubleArray:
    """Return the figures of a whole trial."""
    report, count = seen.report, len(seen.report.due)
    latencies = seen.latencies_ms()
    answers = [done for done, status in zip(report.done, report.status, strict=True) if status == 200]
    refused = report.status.count(429)
    lateness = sorted(
        1_000 * (sent - due) for sent, due in zip(report.sent, report.due, strict=True) if sent
    )  # a request that was never sent waited for a connection: it counts as failed
    return DoubleArray(
        offered=count / seen.seconds,
        answered=len(answers) / max([seen.seconds, *answers]),
        p50_ms=quantile(latencies, 0.5),
        p99_ms=quantile(latencies, 0.99),
        refused=refused / max(1, count),
        failed=(count - refused - len(answers)) / max(1, count),
        goodput=sum(latency <= GOAL_MS for latency in latencies) / seen.seconds,
        lateness_p99_ms=quantile(lateness, 0.99),
        connections=report.connections,
        cores_server=seen.cores.server,
        cores_client=seen.cores.client,
        cores_others=seen.cores.others,
    )


def median_of(trials: Sequence[DoubleArray]) -> DoubleArray:
    """Return the medians of some trials, figure by figure; of two middle latencies or shares, the worse one."""
    columns = zip(*(asdict(trial).values() for trial in trials), strict=True)
    values: list[Any] = [sorted(column)[len(trials) // 2] for column in columns]
    return DoubleArray(*values)


def search(keeps_goal: Callable[[float], bool], confirm: Callable[[float], bool], start: float, step: float) -> float:
    """Return the largest rate that keeps the goal, by doubling or halving from `start`, then by geometric bisection.

    Returns 0 if not even LOWEST_RATE keeps it.

    step     the ratio at which the bisection ends, and by which a rate that is not confirmed is lowered
    """
    low = high = start
    while low >= LOWEST_RATE and not keeps_goal(low):
        low, high = low / 2, low
    if low == high:
        while keeps_goal(high := 2 * low):
            low = high
    while high / low > step:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if keeps_goal(middle) else (low, middle)
    while low >= LOWEST_RATE and not confirm(low):
        low /= step
    return low if low >= LOWEST_RATE else 0.0


@dataclass(frozen=True, slots=True)
class Second:
    """The figures of one second of a trial, or of another stretch, by scheduled arrival; `second` is its start."""

    second: int
    offered: int
    p50_ms: float
    p99_ms: float
    refused: int
    failed: int

    @property
    def keeps_goal(self) -> bool:
        """Whether p99 is within GOAL_MS, nothing was refused and nothing failed."""
        return self.p99_ms <= GOAL_MS and not self.refused and not self.failed

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON; p50 or p99 is null if that share of the requests got no answer in time."""
        row = asdict(self)
        return {name: None if value == math.inf else value for name, value in row.items()}


def timeline(seen: Seen) -> list[Second]:
    """Return the figures of a trial, second by second."""
    return [between(seen, second, second + 1) for second in range(math.ceil(seen.seconds))]


def recovery_s(seen: Seen, step_end: float) -> float | None:
    """Return how long after the step a second of arrivals begins in which p99 keeps the goal and nothing is refused.

    The time is in seconds, in steps of a tenth; None if there is no such second before the arrivals end.
    """
    for tenth in range(int(10 * (seen.seconds - step_end - 1)) + 1):
        second = between(seen, step_end + tenth / 10, step_end + tenth / 10 + 1)
        if second.keeps_goal:
            return tenth / 10
    return None


def between(seen: Seen, start: float, end: float) -> Second:
    """Return the figures of the requests that were due from `start` to before `end`."""
    report = seen.report
    rows = zip(report.due, report.done, report.status, strict=True)
    chosen = [(done - due, status) for due, done, status in rows if start <= due < end]
    waits = sorted(
        1_000 * wait if status == 200 else math.inf for wait, status in chosen if status in (200, NOT_ANSWERED)
    )
    refused = sum(status == 429 for _, status in chosen)
    failed = sum(status not in (200, 429) for _, status in chosen)
    return Second(int(start), len(chosen), quantile(waits, 0.5), quantile(waits, 0.99), refused, failed)


def errors_of(report: Report) -> dict[str, int]:
    """Return how often each error occurred; one is that a request got no connection at all."""
    unanswered = [sent > 0 for sent, status in zip(report.sent, report.status, strict=True) if status == NOT_ANSWERED]
    silent = {"not answered in time": sum(unanswered), "not connected in time": len(unanswered) - sum(unanswered)}
    return {**report.errors, **{error: count for error, count in silent.items() if count}}
