"""The dashboard for people who work on the engine: steps, exits, stages, refusals, the process."""

from __future__ import annotations

from dashboards.board import Cell, Row
from dashboards.panels import (
    GREEN,
    ORANGE,
    PURPLE,
    Query,
    coloured,
    density,
    distribution,
    on_the_right,
    over_time,
    stacked,
    with_limit,
)
from dashboards.queries import buckets, mean, of_process, per_second, quantile, series, total

TITLE = "NER: inside the engine"
UID = "ner-engine"
DESCRIPTION = "For whoever works on the engine: steps, exits, stages, refusals, and what the process takes."

QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
COLOURS = {"p50": GREEN, "p95": ORANGE, "p99": PURPLE}


def rows() -> list[Row]:
    """Return the rows, top to bottom."""
    return [steps(), exits(), stages(), requests(), process()]


def quantiles(histogram: str) -> list[Query]:
    """Return queries for the quantiles of a histogram, and for its mean."""
    return [
        *(Query(quantile(share, histogram), name) for name, share in QUANTILES.items()),
        Query(mean(histogram), "mean"),
    ]


def steps() -> Row:
    """Return the row on the worker's steps; a step runs one layer over the sequences that stand before it."""
    rate = over_time(
        "Steps", "Layer steps per second.", Query(per_second("ner_step_seconds_count"), "steps"), unit="ops"
    )
    busy = over_time(
        "Worker busy",
        "Share of the time that the worker spends in steps. Near 100 % the engine is saturated.",
        Query(f"sum by (instance) (rate({series('ner_step_seconds_sum')}[$__rate_interval]))", "{{instance}}"),
        unit="percentunit",
    )
    seconds = over_time(
        "Time of a step",
        "Of all layers together: the series do not tell layers apart.",
        *quantiles("ner_step_seconds"),
        unit="s",
    )
    sizes = over_time(
        "Size of a step",
        "Sequences and word pieces that share a step, on average.",
        Query(mean("ner_step_batch_sequences"), "sequences"),
        Query(mean("ner_step_batch_tokens"), "pieces"),
        unit="short",
    )
    per_token = over_time(
        "Time of a step by what it holds",
        "Time of a layer for one sequence and for one word piece: full steps make both cheap.",
        Query(f"{per_second('ner_step_seconds_sum')} / {per_second('ner_step_batch_sequences_sum')}", "one sequence"),
        Query(f"{per_second('ner_step_seconds_sum')} / {per_second('ner_step_batch_tokens_sum')}", "one piece"),
        unit="s",
    )
    densities = [
        density(f"{what} of steps", text, buckets(histogram, "$__rate_interval"))
        for what, text, histogram in (
            ("Sequences", "How many steps held at most so many sequences.", "ner_step_batch_sequences"),
            ("Word pieces", "How many steps held at most so many word pieces.", "ner_step_batch_tokens"),
            ("Seconds", "How many steps took at most so many seconds.", "ner_step_seconds"),
        )
    ]
    return Row(
        "Steps",
        [
            Cell(rate, 6, 7),
            Cell(busy.max(1), 6, 7),
            Cell(on_the_right(sizes, "pieces", "short"), 6, 7),
            Cell(on_the_right(per_token, "one piece", "s"), 6, 7),
            Cell(coloured(seconds, COLOURS), 6, 7),
            *(Cell(panel, 6, 7) for panel in densities),
        ],
    )


def exits() -> Row:
    """Return the row on where sequences leave, and why."""
    reasons = over_time(
        "Why sequences left",
        "Exits per second by their reason; last_layer means that nothing let them leave earlier.",
        Query(per_second("ner_exit_reason_total", by="reason"), "{{reason}}"),
        unit="ops",
    )
    layers = distribution(
        "Exit layers",
        "How many sequences left at which layer in the time shown.",
        buckets("ner_exit_layer", "$__range"),
    )
    words = distribution(
        "Layers per word",
        "How many words moved through how many layers in the time shown: as many as their sequence, unless a strategy "
        "lets words halt one by one.",
        buckets("ner_word_layers", "$__range"),
    )
    depth = over_time(
        "Speed-up in layers",
        "Layers of full depth / layers run: of all traffic, and of the policy in force since it is in force.",
        Query(f"1 + {per_second('ner_layers_saved_total')} / {per_second('ner_layers_executed_total')}", "all traffic"),
        Query(series("ner_speedup_layers"), "policy in force {{instance}}"),
        unit="suffix:x",
    )
    work = over_time(
        "Layers run and saved",
        "Layers per second that ran, and that early exit made needless.",
        Query(per_second("ner_layers_executed_total"), "run"),
        Query(per_second("ner_layers_saved_total"), "saved"),
        unit="ops",
    )
    return Row(
        "Exits",
        [
            Cell(stacked(reasons), 6, 8),
            Cell(layers, 4, 8),
            Cell(words, 4, 8),
            Cell(depth.min(1), 5, 8),
            Cell(stacked(coloured(work, {"run": ORANGE, "saved": GREEN})), 5, 8),
        ],
    )


def stages() -> Row:
    """Return the row on where the time of a request goes."""
    told = {
        "tokenize": "Splitting into sentences and word pieces, beside the event loop.",
        "queue": "From admission to the first step.",
        "inference": "From the first step to the last, waiting for steps of others included.",
        "decode": "From tables of spans to entities with offsets.",
    }
    panels = [
        over_time(f"Time in {stage}", text, *quantiles(f"ner_request_{stage}_seconds"), unit="s")
        for stage, text in told.items()
    ]
    return Row("Stages of a request", [Cell(coloured(panel, COLOURS), 6, 7) for panel in panels])


def requests() -> Row:
    """Return the row on requests that come in, that are refused, and that are answered."""
    endpoints = over_time(
        "Requests by endpoint",
        "All HTTP requests per second.",
        Query(per_second("ner_requests_total", by="endpoint"), "{{endpoint}}"),
        unit="reqps",
    )
    refused = over_time(
        "Refused before they ran",
        "Requests per second turned away: the queue was full, they were too large, the service was not ready.",
        Query(per_second("ner_requests_rejected_total", by="reason"), "{{reason}}"),
        unit="reqps",
    )
    abandoned = over_time(
        "Given up",
        "Requests per second whose time limit passed, and whose client left before the answer.",
        Query(per_second("ner_requests_timed_out_total"), "timed out"),
        Query(per_second("ner_requests_client_left_total"), "client left"),
        unit="reqps",
    )
    throughput = over_time(
        "Throughput",
        "Sequences and word pieces answered per second.",
        Query(per_second("ner_sequences_total"), "sequences"),
        Query(per_second("ner_tokens_total"), "pieces"),
        unit="ops",
    )
    reused = over_time(
        "Answers used again",
        "Sequences per second that ran no layer, since an equal one was under way or in the cache; the cache's memory.",
        Query(per_second("ner_reused_sequences_total", by="source"), "{{source}}"),
        Query(f"sum({series('ner_cache_bytes')})", "memory"),
        unit="ops",
    )
    bulk = over_time(
        "Bulk work",
        "Lines of streams answered per second; streams that are open, and bulk requests and lines that wait or run.",
        Query(per_second("ner_stream_lines_total", by="outcome"), "lines: {{outcome}}"),
        Query(total("ner_streams"), "open streams"),
        Query(total("ner_bulk_requests"), "open requests"),
        unit="ops",
    )
    entities = over_time(
        "Entities by label",
        "Entities answered per second. A label that vanishes says that the texts have changed, or the model.",
        Query(per_second("ner_entities_total", by="label"), "{{label}}"),
        unit="ops",
    )
    return Row(
        "Requests",
        [
            Cell(endpoints, 6, 7),
            Cell(refused, 6, 7),
            Cell(abandoned, 6, 7),
            Cell(on_the_right(bulk, "open.*", "none"), 6, 7),
            Cell(on_the_right(throughput, "pieces", "ops"), 8, 7),
            Cell(on_the_right(reused, "memory", "bytes"), 8, 7),
            Cell(stacked(entities), 8, 7),
        ],
    )


def process() -> Row:
    """Return the row on what the process takes from its machine."""
    cores = over_time(
        "Processor",
        "Cores that the process keeps busy.",
        Query(of_process("rate(process_cpu_seconds_total[$__rate_interval])"), "{{instance}}"),
        unit="none",
    )
    collections = over_time(
        "Garbage collections",
        "Collections per second by generation; the oldest stops everything for the longest.",
        Query(
            f"sum by (generation) ({of_process('rate(python_gc_collections_total[$__rate_interval])')})",
            "generation {{generation}}",
        ),
        unit="ops",
    )
    memory = over_time(
        "Memory",
        "Resident and virtual memory.",
        Query(of_process("process_resident_memory_bytes"), "resident {{instance}}"),
        Query(of_process("process_virtual_memory_bytes"), "virtual {{instance}}"),
        unit="bytes",
    )
    files = over_time(
        "Open files",
        "File descriptors in use, connections among them, and how many there may be.",
        Query(of_process("process_open_fds"), "open {{instance}}"),
        Query(of_process("process_max_fds"), "limit {{instance}}"),
        unit="none",
    )
    processes = over_time(
        "Serving processes",
        "How many answer, and how many were started in place of one that died.",
        Query(f"sum by (instance) ({series('ner_processes')})", "serving {{instance}}"),
        Query(f"sum by (instance) ({series('ner_processes_replaced_total')})", "replaced {{instance}}"),
        unit="none",
    )
    return Row(
        "Process",
        [
            Cell(cores, 5, 7),
            Cell(collections, 5, 7),
            Cell(on_the_right(memory, "virtual.*", "bytes"), 5, 7),
            Cell(with_limit(on_the_right(files, "limit.*", "none"), "limit.*"), 5, 7),
            Cell(processes, 4, 7),
        ],
    )
