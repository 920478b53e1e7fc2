"""Makes the page docs/scale.md of the results of `benchmarks.capacity`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import geometric_mean
from textwrap import fill
from typing import Any

from benchmarks.domains_page import table
from benchmarks.load_trials import GOAL_MS
from benchmarks.simulated_fleet.validation import WITHIN

Row = Mapping[str, Any]
HOURS = (4, 12, 17, 18, 19, 20, 22)  # of the day, that are told
MOST_LOAD_AVERAGE = 1.0  # of a machine that is quiet but for whoever starts this
MOST_OF_FULL_DEPTH = 0.5  # of its replicas: the goal of early exit with autopilot
NAMES = {"p50_ms": "p50", "p99_ms": "p99", "goodput": "goodput"}

HEAD = """# At scale

What to choose when one machine is no longer enough, and how many it takes. The figures are of a simulation: the
service's own scheduler, admission, [forecast](reliability.md#overload) and [control law](autopilot.md) on a simulated
clock, with what layers, exits and Python take as measured on one machine. The words are in the [glossary](glossary.md).

    .venv/bin/python -m benchmarks.capacity {model} DATA/conll2003/test.conll
    .venv/bin/python -m docs.generate

on a quiet machine measures, [validates](#how-far-to-trust-it), simulates and writes this page anew. A replica is a
machine of {cores} cores (processor: {processor}) with {processes}; a request asks for one to eight sentences of news.
On another machine the figures are others: run it there.
"""

CHOICE = """## What to choose when

In this order, since each step costs less than the next:

1. **Early exit** before machines. `{preset}` takes {early} of the replicas that full depth takes, and what it loses
   [calibration](exit-policy.md) says; with the autopilot it is {flown}.
2. **More processes** where there are more than two cores: `NER_PROCESSES` ([deployment](deployment.md#processes)).
   A process has one event loop, of which a request takes {loop_us:,.0f} microseconds here, so it serves at most
   {most:,.0f} a second, whatever the exit policy.
3. **More replicas**, with one exit policy for all: `NER_POLICY_STORE`
   ([deployment](deployment.md#several-replicas)). Each has an autopilot of its own, by its own queue.
4. **A balancer that knows what is open.** By the fewest open requests, a replica serves {least:,.0f} requests a second
   here; beside that: {others}. Where many balancers know nothing of each other, the replicas of one are the cell.
5. **Replicas to spare** for those that are lost ([below](#when-a-tenth-is-lost)): the autopilot takes up a loss by
   speed, as long as the event loops have room.
6. **Scale out by work, not by latency**: the autopilot keeps latency as it was, and pays with F1. Add replicas while
   the mean of `ner_autopilot_level` stays above 0, or cores are busier than 70 %; take some away at level 0 and below
   40 %.
"""

TRUST = """## How far to trust it

A replica is a machine whose cores its threads share evenly; the interpreter of a process is one thread's at a time,
until it has done its Python or a switch interval has passed. The event loop takes requests turn by turn, in each turn
all that have come. Of the engine all is real but the layers: these take what was measured for so many sequences of such
a length, with the exit and without, and a sentence leaves where it left when it was recorded under that policy. How
many threads a layer has while the event loop is busy is the kernels' own rule. Not simulated are the network, the
balancer's own time, texts that are cut beside the event loop, shadow runs and samples, and whoever else shares the
machine.
"""
MISSED = """Layers and Python were timed at work without a pause. Between two requests of a load that leaves gaps, cores
sleep and weights leave the caches: asked one at a time, requests took 1.8 times as long in the engine and 1.5 times as
long before it (tried once; no script is kept). With costs that much higher one process agrees up to six tenths of its
capacity, and is foretold to be full long before it is. So take from here which policy, routing or number of machines is
better, and by how much; take latencies, and what one replica bears, from a server of your own."""
NOT_YET = "It has **not been held against real servers** on a quiet machine yet: read ratios, not figures.\n"


def page(found: Row, validated: Row | None) -> str:
    """Return the page as Markdown; validated: what the validation found, None where it has not been run."""
    environment = found["environment"]
    processes = "one serving process" if found["processes"] == 1 else f"{found['processes']} serving processes"
    parts = [
        HEAD.format(
            model=environment["model"].partition("@")[0],
            cores=environment["cores"],
            processor=environment["processor"],
            processes=processes,
        ),
        *_caution(environment),
        _choice(found),
        _sizes(found),
        _routings(found),
        _day(found),
        _losses(found),
        _trust(validated),
    ]
    return "\n".join(parts)


def _caution(environment: Row) -> list[str]:
    """Return what stands against the costs, if anything does."""
    if made_of := environment.get("put_together_from"):
        return [_text(f"**These costs are not from one run yet: read ratios, not figures.** They are of {made_of}.")]
    if environment["load_average"] > MOST_LOAD_AVERAGE:
        load = environment["load_average"]
        told = f"**Other programs ran on the machine before the costs were measured** (load average {load:.1f}):"
        return [_text(told, "read ratios, not figures.")]
    return []


def _choice(found: Row) -> str:
    full, early, flown = (_size(found, policy, 100_000)["with_spare"] for policy in _policies(found))
    loop_us = found["loop_us"]
    rates = {row["routing"]: row["rate"] for row in _of_cells("early exit", found)}
    least = rates.pop("least-loaded")
    return CHOICE.format(
        preset=found["preset"],
        early=f"{early / full:.2f}",
        flown=f"{flown / full:.2f}",
        loop_us=loop_us,
        most=1e6 / loop_us,
        least=least,
        others=", ".join(f"{name} {rate / least:.2f}" for name, rate in rates.items()),
    )


def _sizes(found: Row) -> str:
    rates = list(dict.fromkeys(row["rate"] for row in found["sizes"]))
    policies, cores = _policies(found), found["cores"]

    def replicas(row: Row) -> str:
        return f"{row['replicas']:,} / {row['with_spare']:,}"

    def hours(row: Row) -> str:
        return f"{24 * row['with_spare'] * cores:,} / {sum(row['by_hour']) * cores:,}"

    def of(told: Callable[[Row], str]) -> str:
        rows = ([f"{rate:,}", *(told(_size(found, policy, rate)) for policy in policies)] for rate in rates)
        return table(["requests a second at the peak", *policies], rows)

    lost = ", ".join(f"{policy} {_size(found, policy, rates[0])['f1_loss']:.2f}" for policy in policies)
    return "\n".join(
        [
            "## How many replicas\n",
            _text(
                f"So many that at the peak p99 is within {GOAL_MS:.0f} ms and under 1 % is refused, under least-loaded",
                "routing / so many that this still holds when a tenth of them is lost:",
            ),
            of(replicas),
            _goal(found),
            _text(
                "Cost: core hours of a day with a dinner hour, for a fleet that is always as large as the peak needs,",
                "with a tenth to spare / for one that in every hour is as large as that hour needs. Multiply by what a",
                "core costs you in an hour.",
            ),
            of(hours),
            _text(
                f"F1 x 100 that is lost at the peak, by calibration: {lost}. The autopilot is to keep a p95 of",
                f"{found['objective_ms']:.0f} ms and may lose 1.0. It loses most where there are as few replicas as",
                "here; [a day](#a-day) shows what it loses where there are more.",
            ),
            _text(
                f"Scaled up from a *cell* of {found['cell']} replicas behind a balancer: many balancers among which",
                "requests are spread by chance are so many cells, and each has a Poisson process of its own. Fewer",
                "replicas than a cell were simulated as they are. A rate counts as kept if it is kept for",
                f"{found['seconds']['trial']:g} s, after {found['seconds']['warm_up']:g} s of it.",
            ),
        ]
    )


def _goal(found: Row) -> str:
    full, _, flown = (_size(found, policy, 100_000)["with_spare"] for policy in _policies(found))
    met = "met" if flown / full <= MOST_OF_FULL_DEPTH else "missed"
    return _text(
        "For 100,000 requests a second, early exit with autopilot takes",
        f"{flown / full:.2f} of the replicas of full depth; the goal was {MOST_OF_FULL_DEPTH:g} at most: {met}.",
    )


def _routings(found: Row) -> str:
    shares = list(dict.fromkeys(row["share"] for row in found["routings"]))
    names = list(dict.fromkeys(row["routing"] for row in found["routings"]))
    by_place = {(row["routing"], row["share"]): row for row in found["routings"]}
    rate = by_place[names[0], 1.0]["rate"]
    return "\n".join(
        [
            "## Which routing\n",
            _text(
                f"p50 and p99 in ms of a cell of {found['cell']} replicas under `{found['preset']}`; a load of 1 is",
                "the largest that keeps the goal under least-loaded routing,",
                f"{rate:,.0f} requests a second and replica; what is refused is told as well.",
            ),
            table(
                ["load", *names],
                ([f"{share:g}", *(_quantiles(by_place[name, share]) for name in names)] for share in shares),
            ),
            _text(
                "*Length-aware* is by the characters that are open and a constant for each request, as the service's",
                "own forecast counts work.",
            ),
        ]
    )


def _day(found: Row) -> str:
    parts = ["## A day\n", "![p99 by routing, when a replica is lost, and in a day](scale.png)\n"]
    policies = _policies(found)
    for name, rows in found["days"].items():
        rate = found["day_rates"][name]
        by_place = {(row["policy"], row["hour"]): row for row in rows}
        parts += [
            _text(
                f"As many replicas {name}, with a tenth to spare: {rate:,.0f} requests a second each in the dinner",
                "hour. p50, p99 in ms, and F1 x 100 lost by calibration:",
            ),
            table(["hour", *policies], ([f"{hour}", *(_told(by_place[p, hour]) for p in policies)] for hour in HOURS)),
        ]
    parts.append(
        _text(
            "In the simulation an hour lasts some seconds, so the load changes some hundred times as fast as on a real",
            "day: whoever follows it there follows it here.",
        )
    )
    return "\n".join(parts)


def _losses(found: Row) -> str:
    policies = _policies(found)
    by_place = {(row["policy"], row["second"]): row for row in found["losses"]}
    seconds = sorted({second for _, second in by_place})
    of_policies = {p: sum(row["lost"] for row in found["losses"] if row["policy"] == p) for p in policies}
    told = ", ".join(f"{policy} {count}" for policy, count in of_policies.items())
    return "\n".join(
        [
            "## When a tenth is lost\n",
            _text(
                "Ten replicas at the peak, so loaded that nine can just serve it. At second 0 one ends with all that",
                "it has in hand, and its balancer sends it nothing more. p50, p99 in ms and F1 x 100 lost, by second:",
            ),
            table(["second", *policies], ([f"{s:g}", *(_told(by_place[p, s]) for p in policies)] for s in seconds)),
            _text(f"Requests in its hands, which somebody has to send again: {told}."),
        ]
    )


def _trust(validated: Row | None) -> str:
    if validated is None:
        return f"{TRUST}\n{NOT_YET}"
    within = ", ".join(f"{name} {validated['within'][key]:.0%}" for key, name in NAMES.items())
    rows = (
        [
            str(row["processes"]),
            f"{row['rate']:.0f}",
            *(f"{row['measured'][name]:.1f} / {row['simulated'][name]:.1f}" for name in NAMES),
        ]
        for row in validated["rows"]
    )
    return "\n".join(
        [
            TRUST,
            _text(
                "Held against real servers, the same texts at the same moments, the client on the same cores:",
                "measured / simulated.",
            ),
            "![p50, p99 and goodput, measured and simulated](scale_validation.png)\n",
            table(["processes", "requests/s", "p50 ms", "p99 ms", f"within {GOAL_MS:.0f} ms, a second"], rows),
            _text(
                f"The goal was a difference of {WITHIN:.0%}; that share of the loads is within it: {within}.",
                f"Of what is measured, {_mean_share(validated, 'p50_ms'):.0%} of p50 and",
                f"{_mean_share(validated, 'p99_ms'):.0%} of p99 is simulated (geometric means).",
                MISSED,
            ),
        ]
    )


def _mean_share(validated: Row, name: str) -> float:
    return geometric_mean(row["simulated"][name] / row["measured"][name] for row in validated["rows"])


def _text(*lines: str) -> str:
    """Return lines as a paragraph."""
    return fill(" ".join(lines), 120, break_long_words=False, break_on_hyphens=False) + "\n"


def _policies(found: Row) -> list[str]:
    return list(dict.fromkeys(row["policy"] for row in found["sizes"]))


def _size(found: Row, policy: str, rate: int) -> Row:
    return next(row for row in found["sizes"] if (row["policy"], row["rate"]) == (policy, rate))


def _of_cells(policy: str, found: Row) -> list[Row]:
    """Return the capacities of whole cells; with routing at random a replica is one."""
    of_policy = [row for row in found["capacities"] if row["policy"] == policy]
    return [row for row in of_policy if row["replicas"] == (1 if row["routing"] == "random" else found["cell"])]


def _quantiles(row: Row) -> str:
    if row["p99_ms"] is None:
        return "nothing answered"
    missing = row["refused"] + row["failed"]
    told = f"{row['p50_ms']:.1f}, {row['p99_ms']:,.0f}"
    return f"{told} ({missing:.1%} not answered)" if missing >= 0.0005 else told


def _told(row: Row) -> str:
    return f"{_quantiles(row)}; {row['f1_loss']:.2f}"
