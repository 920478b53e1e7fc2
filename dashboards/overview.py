"""The dashboard for people who run the service: how early, good and fast it is, who decides, whether it is well."""

from __future__ import annotations

from grafana_foundation_sdk.builders.common import ScaleDistributionConfig
from grafana_foundation_sdk.models.common import BigValueTextMode, ScaleDistribution

from dashboards.board import Cell, Row
from dashboards.panels import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    RED,
    YELLOW,
    Query,
    coloured,
    density,
    figure,
    in_words,
    on_the_right,
    over_time,
    stacked,
    states,
    stepped,
    with_limit,
)
from dashboards.queries import (
    ANSWERS,
    buckets,
    lately,
    mean,
    objective_p95,
    of_process,
    per_second,
    quantile,
    series,
    side_by_side,
    total,
)

TITLE = "NER: early exit at a glance"
UID = "ner-overview"
DESCRIPTION = "For whoever runs the service: how early it leaves, how good, how fast, who decides, whether it is well."

EXECUTED, SAVED = per_second("ner_layers_executed_total"), per_second("ner_layers_saved_total")
ALL, FAILED = per_second("ner_requests_total", ANSWERS), per_second("ner_requests_total", ANSWERS, 'code=~"429|5.."')
LAYERS_RUN = f"{EXECUTED} / {per_second('ner_sequences_total')}"
P95 = quantile(0.95, "ner_request_duration_seconds")
EXPECTED = "ner_exit_policy_expected_"
UNMEASURED = "not calibrated"


def rows() -> list[Row]:
    """Return the rows, top to bottom."""
    return [at_a_glance(), how_early(), how_fast(), replicas(), who_decides(), how_well()]


def at_a_glance() -> Row:
    """Return the row with the headline, and twelve figures on the service's state around it."""
    headline = figure(
        "Average exit layer",
        "The layers that run for a sequence, on average; where words halt one by one, the mean over its words. The "
        "lower, the less is computed.",
        Query(LAYERS_RUN),
        decimals=2,
        sparkline=True,
    )
    layers_saved = figure(
        "Layers saved",
        "Share of full depth's layers that early exit did not run.",
        Query(f"{SAVED} / ({SAVED} + {EXECUTED})"),
        unit="percentunit",
    )
    speedup_layers = figure(
        "Speed-up, layers",
        "Layers of full depth / layers that ran.",
        Query(f"({SAVED} + {EXECUTED}) / {EXECUTED}"),
        unit="suffix:x",
        decimals=1,
    )
    speedup_latency = figure(
        "Speed-up, time",
        "Time of full depth / time under the policy in force: measured by calibration, one sentence at a time.",
        Query(series(f"{EXPECTED}speedup_latency"), "{{instance}}"),
        unit="suffix:x",
        decimals=1,
        unknown=UNMEASURED,
    )
    f1 = figure(
        "F1 expected",
        "F1 x 100 of the policy in force: measured by calibration on its dev set.",
        Query(series(f"{EXPECTED}f1"), "{{instance}}"),
        decimals=1,
        unknown=UNMEASURED,
    )
    f1_loss = figure(
        "F1 loss expected",
        "F1 x 100 of full depth minus that of the policy in force, by calibration. Yellow from 0.3, the most "
        "that the preset balanced may lose, red from 1, the most that fast may.",
        Query(series(f"{EXPECTED}f1_loss"), "{{instance}}"),
        decimals=2,
        steps=((None, GREEN), (0.3, YELLOW), (1, RED)),
        unknown=UNMEASURED,
    )
    strategy = figure(
        "Strategy",
        "The exit strategy of every request that starts now.",
        Query(series("ner_exit_policy_info"), "{{strategy}} {{measure}}"),
    )
    requests = figure("Requests", "Requests for entities, whatever their answer.", Query(ALL), unit="reqps", decimals=1)
    p95 = figure(
        "p95 of objective",
        "95 of 100 requests are answered within this share of the objective: the autopilot's p95_ms, else 100 ms.",
        Query(f"{P95} / {objective_p95()}"),
        unit="percentunit",
        steps=((None, GREEN), (0.8, YELLOW), (1, RED)),
    )
    failed = figure(
        "Refused or failed",
        "Share of the requests for entities that got 429 (the queue is full) or 5xx.",
        Query(f"({FAILED} or 0 * {ALL}) / {ALL}"),
        unit="percentunit",
        decimals=1,
        steps=((None, GREEN), (0.01, YELLOW), (0.05, RED)),
    )
    autopilot = figure(
        "Autopilot",
        "Whether the service moves along the calibrated operating points by itself.",
        Query(series("ner_autopilot_enabled"), "{{instance}}"),
    )
    engine = figure(
        "Engine",
        "Whether the engine can make progress: it runs, and no step of it is overdue.",
        Query(series("ner_engine_up"), "{{instance}}"),
    )
    alerts = figure(
        "Alerts firing",
        "Alerts of this service that fire now; the page /alerts of Prometheus says which.",
        Query('count(ALERTS{alertname=~"Ner.*", alertstate="firing"}) or vector(0)'),
        steps=((None, GREEN), (1, RED)),
    )
    around = (
        *(layers_saved, speedup_layers, speedup_latency, f1, f1_loss, strategy.text_mode(BigValueTextMode.NAME)),
        *(requests, p95, failed, in_words(autopilot, ("off", BLUE), ("on", GREEN))),
        *(in_words(engine, ("stuck", RED), ("up", GREEN)), alerts),
    )
    return Row("At a glance", [Cell(headline, 6, 8), *(Cell(panel, 3, 4) for panel in around)])


def how_early() -> Row:
    """Return the row on the depth of the answers, what it saves, and what it is expected to cost."""
    layers = over_time(
        "Average exit layer over time",
        "What sequences do, and what calibration expects of the policy in force. Traffic unlike the dev set's shows "
        "as a gap between them, and so do requests with an exit policy of their own.",
        Query(LAYERS_RUN, "observed"),
        Query(f"avg({series(f'{EXPECTED}average_exit_layer')})", "expected"),
        unit="none",
    )
    heatmap = density(
        "Exit layers",
        "How many sequences left at which layer, and when.",
        buckets("ner_exit_layer", "$__rate_interval"),
    )
    saved = over_time(
        "Layers run and saved",
        "Layers per second that ran, and that early exit made needless.",
        Query(EXECUTED, "run"),
        Query(SAVED, "saved"),
        unit="ops",
    )
    quality = over_time(
        "F1 over time",
        "F1 x 100 expected of the policy in force, and its loss against full depth, by calibration; nothing where "
        "calibration did not measure that policy.",
        Query(series(f"{EXPECTED}f1"), "F1 {{instance}}"),
        Query(series(f"{EXPECTED}f1_loss"), "loss {{instance}}"),
        unit="none",
    )
    return Row(
        "How early",
        [
            Cell(coloured(layers, {"observed": BLUE, "expected": ORANGE}).min(1).decimals(2), 12, 8),
            Cell(heatmap, 12, 8),
            Cell(stacked(coloured(saved, {"run": ORANGE, "saved": GREEN})), 12, 7),
            Cell(stepped(on_the_right(quality, "loss .*", "none")).decimals(2), 12, 7),
        ],
    )


def how_fast() -> Row:
    """Return the row on requests, their times and what they wait for."""
    codes = over_time(
        "Requests by status code",
        "Requests for entities per second: 200 answered, 429 refused because the queue is full, 499 whose client left, "
        "503 while draining, 504 too late.",
        Query(per_second("ner_requests_total", ANSWERS, by="code"), "{{code}}"),
        unit="reqps",
    )
    times = over_time(
        "Time of a request",
        "From its first byte to its answer, quantiles over the last moments; and the p95 that is wanted.",
        Query(quantile(0.5, "ner_request_duration_seconds"), "p50"),
        Query(P95, "p95"),
        Query(quantile(0.99, "ner_request_duration_seconds"), "p99"),
        Query(objective_p95(), "objective of p95"),
        unit="s",
    )
    stages = over_time(
        "Time by stage",
        "What an average request spends its time on.",
        *(Query(mean(f"ner_request_{stage}_seconds"), stage) for stage in ("tokenize", "queue", "inference", "decode")),
        unit="s",
    )
    queue = over_time(
        "Queue",
        "Requests that wait for their first step, requests that run, and how many texts may be admitted at a time "
        "before 429. A request may hold several texts.",
        Query(total("ner_requests_waiting"), "waiting"),
        Query(total("ner_requests_running"), "running"),
        Query(total("ner_queue_capacity"), "capacity, texts"),
        unit="short",
    )
    steps = over_time(
        "Step sizes",
        "Sequences that share a step of the engine: under load steps are full, and that is what makes them cheap.",
        Query(mean("ner_step_batch_sequences"), "sequences, mean"),
        Query(quantile(0.95, "ner_step_batch_sequences"), "sequences, p95"),
        Query(mean("ner_step_batch_tokens"), "tokens, mean"),
        unit="short",
    )
    by_code = {"2..": GREEN, "4..": YELLOW, "429": PURPLE, "5..": RED}
    logarithmic = ScaleDistributionConfig().type(ScaleDistribution.SYMLOG).log(10).linear_threshold(1)
    return Row(
        "How fast",
        [
            Cell(stacked(coloured(codes, by_code)), 8, 8),
            Cell(with_limit(coloured(times, {"p50": GREEN, "p95": ORANGE, "p99": PURPLE}), "objective of p95"), 8, 8),
            Cell(stacked(stages), 8, 8),
            Cell(with_limit(queue.scale_distribution(logarithmic), "capacity.*"), 12, 7),
            Cell(on_the_right(steps, "tokens.*", "short"), 12, 7),
        ],
    )


def replicas() -> Row:
    """Return the row that tells replicas apart, and says how many there are and are wanted."""
    answered = over_time(
        "Requests by replica",
        "Requests for entities per second at each replica, whatever their answer. Least-loaded routing gives equal "
        "replicas the same.",
        Query(per_second("ner_requests_total", ANSWERS, by="instance"), "{{instance}}"),
        unit="reqps",
    )
    times = over_time(
        "p95 by replica",
        "95 of 100 requests at this replica are answered within this time.",
        Query(
            f"histogram_quantile(0.95, {per_second('ner_request_duration_seconds_bucket', by='instance, le')})",
            "{{instance}}",
        ),
        unit="s",
    )
    busy = over_time(
        "Worker busy by replica",
        "Share of the time that the workers of a replica spend in steps, and the mean of all: above 70 % more replicas "
        "are wanted, below 40 % fewer.",
        Query(
            f"{per_second('ner_step_seconds_sum', by='instance')} / sum by (instance) ({series('ner_processes')})",
            "{{instance}}",
        ),
        Query(f"{per_second('ner_step_seconds_sum')} / sum({series('ner_processes')})", "all"),
        unit="percentunit",
    )
    there = f"sum by (job, namespace, service) ({series('ner_engine_up')})"
    count = over_time(
        "Replicas",
        "Replicas whose engine is up, and how many are wanted by what workers, queues and autopilots say.",
        Query(f"sum({there})", "there"),
        Query(f"sum(fleet:ner_replicas_wanted:ratio * on (job, namespace, service) {there})", "wanted"),
        unit="none",
    )
    return Row(
        "Replicas",
        [
            Cell(stacked(answered), 6, 7),
            Cell(times, 6, 7),
            Cell(busy.max(1), 6, 7),
            Cell(stepped(coloured(count, {"there": GREEN, "wanted": ORANGE})), 6, 7),
        ],
    )


def who_decides() -> Row:
    """Return the row on the policy in force, the autopilot, the promise, and the runs that check them."""
    parameters = figure(
        "Parameters in force",
        "Version, tau and patience of the policy in force; GET /exit-policy has all of it, /exit-policy/history who "
        "changed what.",
        Query(
            side_by_side(
                version=series("ner_exit_policy_version"),
                tau=series("ner_exit_policy_tau"),
                patience=series("ner_exit_policy_patience"),
            ),
            "{{figure}}",
        ),
        decimals=4,
        unknown="has none",
    )
    strategies = states(
        "Strategy over time",
        "Which strategy was in force when. The marks on all panels say who changed the policy.",
        Query(series("ner_exit_policy_info"), "{{strategy}} {{measure}}"),
    )
    changes = over_time(
        "Policy changes",
        "Changes of the exit policy, by who made them.",
        Query(f"sum by (source) (increase({series('ner_exit_policy_changes_total')}[$__rate_interval]))", "{{source}}"),
        unit="none",
    )
    level = over_time(
        "Autopilot level",
        "0 is the most accurate operating point that the autopilot may use; every level up is one point faster.",
        Query(series("ner_autopilot_level"), "{{instance}}"),
        unit="none",
    )
    moves = over_time(
        "Autopilot moves",
        "Moves along the operating points, faster and slower.",
        Query(
            f"sum by (direction) (increase({series('ner_autopilot_moves_total')}[$__rate_interval]))", "{{direction}}"
        ),
        unit="none",
    )
    store = over_time(
        "Policy store",
        "1 while the store of the policy can be used: the state folder, or Redis, which replicas share. At 0 the last "
        "policy stays in force, and changes are refused. And the version in force, which replicas have in common.",
        Query(series("ner_policy_store_up"), "up {{instance}}"),
        Query(series("ner_exit_policy_version"), "version {{instance}}"),
        unit="none",
    )
    shadow = over_time(
        "Shadow disagreement",
        "Early leavers that were taken on to full depth in idle time: the share whose entities changed, of the last "
        "5 minutes' runs, and the upper confidence bound of that share.",
        Query(f"{lately('ner_shadow_disagreements_total')} / {lately('ner_shadow_runs_total')}", "disagreeing"),
        Query(series("ner_shadow_disagreement_bound"), "bound {{instance}}"),
        unit="percentunit",
    )
    runs = over_time(
        "Shadow runs",
        "Early leavers taken on to full depth.",
        Query(per_second("ner_shadow_runs_total"), "runs"),
        unit="ops",
    )
    agreement = over_time(
        "Agreement with full depth",
        "1 - F1 of the answers against full depth's: 95 % bounds on this traffic since the start, of the policy in "
        "force, and what is promised. Nothing where it is not measured.",
        Query(
            f"{series('ner_promise_disagreement_bound')} or "
            f'label_replace({series("ner_promise_max_disagreement")}, "bound", "promised", "", "")',
            "{{bound}} {{instance}}",
        ),
        unit="percentunit",
    )
    certified = over_time(
        "Certified levels",
        "Operating points that are certified for what is promised, the safest first; at 0 full depth alone. "
        "Whether what is served is certified, or nothing is promised: 1. And alarms, each a proof that the level in "
        "force had broken the promise.",
        Query(series("ner_promise_certified_levels"), "certified {{instance}}"),
        Query(series("ner_promise_served_is_certified"), "served is certified {{instance}}"),
        Query(lately("ner_promise_alarms_total"), "alarms, 5 minutes"),
        unit="none",
    )
    samples = over_time(
        "Samples",
        "Sentences run to full depth to measure and certify; and the probability with which the next one is drawn, "
        "which falls while they pile up.",
        Query(per_second("ner_promise_samples_total"), "samples"),
        Query(series("ner_promise_sample_probability"), "probability {{instance}}"),
        unit="ops",
    )
    waiting = over_time(
        "Waiting samples",
        "What samples that wait for idle time take, and how many sentences could not be sampled for lack of room.",
        Query(series("ner_promise_buffer_bytes"), "waiting {{instance}}"),
        Query(series("ner_promise_uncovered_sentences"), "uncovered {{instance}}"),
        unit="bytes",
    )
    gold = over_time(
        "F1 by feedback",
        "F1 against the right entities that were sent to POST /feedback: of the policy in force, and of full depth. "
        "And how many sentences it is of, and how many wait for idle time to be counted.",
        Query(series("ner_feedback_f1"), "{{level}} {{instance}}"),
        Query(series("ner_feedback_sentences_total"), "sentences {{instance}}"),
        Query(series("ner_feedback_waiting_sentences"), "sentences that wait {{instance}}"),
        unit="percentunit",
    )
    return Row(
        "Who decides",
        [
            Cell(parameters, 8, 4),
            Cell(strategies, 8, 4),
            Cell(stepped(changes), 8, 4),
            Cell(stepped(level), 8, 7),
            Cell(moves, 4, 7),
            Cell(with_limit(shadow, "bound.*"), 8, 7),
            Cell(runs, 4, 7),
            Cell(with_limit(agreement, "promised.*"), 6, 7),
            Cell(stepped(coloured(certified, {"alarms.*": RED})), 6, 7),
            Cell(on_the_right(samples, "probability.*", "percentunit"), 6, 7),
            Cell(on_the_right(waiting, "uncovered.*", "short"), 6, 7),
            Cell(stepped(on_the_right(store, "version.*", "none")), 16, 5),
            Cell(on_the_right(gold, "sentences.*", "short"), 8, 5),
        ],
    )


def how_well() -> Row:
    """Return the row on the engine and its process."""
    up = over_time(
        "Engine health",
        "1 while the engine can make progress; and since when the step that is running has been running.",
        Query(series("ner_engine_up"), "up {{instance}}"),
        Query(series("ner_engine_last_step_age_seconds"), "age of step {{instance}}"),
        unit="none",
    )
    memory = over_time(
        "Memory",
        "Resident memory of the process. It is flat under load; what grows is a fault.",
        Query(of_process("process_resident_memory_bytes"), "{{instance}}"),
        unit="bytes",
    )
    uptime = over_time(
        "Uptime",
        "Time since the process started; back to zero means a restart.",
        Query(of_process("(time() - process_start_time_seconds)"), "{{instance}}"),
        unit="s",
    )
    return Row("How well", [Cell(on_the_right(up, "age.*", "s"), 8, 7), Cell(memory, 8, 7), Cell(uptime, 8, 7)])
