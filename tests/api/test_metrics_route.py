"""GET /metrics: every series is there from the first scrape, and moves when it should."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from service import __version__
from service.api.state import Service
from service.processes.link import Link
from tests.api.servers_ import AS_ADMIN, ENTITY_TEXT, TINY_LABELS, sample, samples, wait_until

Start = Callable[..., TestClient]
Build = Callable[..., Service]
SERIES = {
    "ner_requests_total": {"endpoint", "code"},
    "ner_requests_rejected_total": {"reason"},
    "ner_requests_running": set(),
    "ner_requests_waiting": set(),
    "ner_queue_capacity": set(),
    "ner_bulk_requests": set(),
    "ner_streams": set(),
    "ner_stream_lines_total": {"outcome"},
    "ner_request_duration_seconds_bucket": {"le"},
    "ner_request_tokenize_seconds_bucket": {"le"},
    "ner_request_queue_seconds_bucket": {"le"},
    "ner_request_inference_seconds_bucket": {"le"},
    "ner_request_decode_seconds_bucket": {"le"},
    "ner_exit_layer_bucket": {"le"},
    "ner_word_layers_bucket": {"le"},
    "ner_exit_reason_total": {"reason"},
    "ner_layers_executed_total": set(),
    "ner_layers_saved_total": set(),
    "ner_tokens_total": set(),
    "ner_sequences_total": set(),
    "ner_step_batch_sequences_bucket": {"le"},
    "ner_step_batch_tokens_bucket": {"le"},
    "ner_step_seconds_bucket": {"le"},
    "ner_exit_policy_tau": set(),
    "ner_exit_policy_patience": set(),
    "ner_exit_policy_version": set(),
    "ner_exit_policy_expected_f1": set(),
    "ner_exit_policy_expected_f1_loss": set(),
    "ner_exit_policy_expected_average_exit_layer": set(),
    "ner_exit_policy_expected_speedup_latency": set(),
    "ner_exit_policy_info": {"strategy", "measure"},
    "ner_exit_policy_changes_total": {"source"},
    "ner_speedup_layers": set(),
    "ner_autopilot_enabled": set(),
    "ner_autopilot_level": set(),
    "ner_autopilot_objective_p95_seconds": set(),
    "ner_autopilot_moves_total": {"direction"},
    "ner_shadow_runs_total": set(),
    "ner_shadow_disagreements_total": set(),
    "ner_shadow_disagreement_bound": set(),
    "ner_promise_samples_total": set(),
    "ner_promise_alarms_total": set(),
    "ner_promise_sample_probability": set(),
    "ner_promise_buffer_bytes": set(),
    "ner_promise_uncovered_sentences": set(),
    "ner_promise_max_disagreement": set(),
    "ner_promise_certified_levels": set(),
    "ner_promise_served_is_certified": set(),
    "ner_promise_disagreement_bound": {"bound"},
    "ner_feedback_sentences_total": set(),
    "ner_feedback_waiting_sentences": set(),
    "ner_feedback_f1": {"level"},
    "ner_entities_total": {"label"},
    "ner_engine_up": set(),
    "ner_reused_sequences_total": {"source"},
    "ner_cache_bytes": set(),
    "ner_processes": set(),
    "ner_processes_replaced_total": set(),
    "ner_engine_last_step_age_seconds": set(),
    "ner_build_info": {"version", "torch", "device", "dtype"},
}
OF_THE_PROCESS = {  # by the conventions of Prometheus's own libraries: no model_name
    "process_resident_memory_bytes": set(),
    "process_cpu_seconds_total": set(),
    "process_start_time_seconds": set(),
    "process_open_fds": set(),
    "process_max_fds": set(),
    "python_gc_collections_total": {"generation"},
}
SECONDS = [
    *(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 5, 10, float("inf")),
]


@pytest.fixture
def client(start: Start) -> TestClient:
    """A server that nobody has asked anything."""
    return start()


def buckets(client: TestClient, name: str) -> list[float]:
    """Upper bounds of a histogram."""
    return [float(one.labels["le"]) for one in samples(client) if one.name == f"{name}_bucket"]


def test_the_exposition_is_what_prometheus_expects(client: TestClient) -> None:
    response = client.get("/metrics")
    assert response.headers["Content-Type"].startswith("text/plain; version=")
    families = list(text_string_to_metric_families(response.text))
    assert all(family.documentation for family in families)
    assert {family.name.split("_")[0] for family in families} == {"ner", "process", "python"}


def test_every_series_is_there_from_the_first_scrape(client: TestClient) -> None:
    found = samples(client)
    assert {one.name for one in found} >= SERIES.keys() | OF_THE_PROCESS.keys()
    for one in found:
        if one.name.startswith("ner_"):
            others = one.labels.keys() - {"model_name"}
            assert others == SERIES.get(one.name, others), one.name
            assert one.labels["model_name"] == "tiny@1"
        else:
            assert one.labels.keys() == OF_THE_PROCESS.get(one.name, one.labels.keys()), one.name


def test_every_known_value_of_a_label_is_there_from_the_first_scrape(client: TestClient) -> None:
    found = samples(client)

    def values(name: str, label: str) -> set[str]:
        return {one.labels[label] for one in found if one.name == name}

    assert values("ner_exit_reason_total", "reason") == {"vote", "confidence", "learned", "budget", "last_layer"}
    assert values("ner_exit_policy_changes_total", "source") == {"api", "autopilot", "promise"}
    assert values("ner_entities_total", "label") == set(TINY_LABELS)
    assert values("ner_requests_rejected_total", "reason") == {*("queue_full", "too_late", "too_large", "not_ready")}
    assert values("ner_autopilot_moves_total", "direction") == {"faster", "slower"}
    assert values("ner_stream_lines_total", "outcome") == {"result", "error"}
    assert values("ner_requests_total", "endpoint") >= {"/ner", "/"}


@pytest.mark.parametrize("name", ["ner_exit_layer", "ner_word_layers"])
def test_the_buckets_of_layers_are_the_layers(client: TestClient, name: str) -> None:
    assert buckets(client, name) == [1, 2, 3, 4, float("inf")]


def test_times_fall_into_the_buckets_of_the_wire(client: TestClient) -> None:
    for name in ("duration", "tokenize", "queue", "inference", "decode"):
        assert buckets(client, f"ner_request_{name}_seconds") == SECONDS


def test_gauges_say_what_is_in_force(client: TestClient) -> None:
    assert sample(client, "ner_queue_capacity") == 4_096
    assert sample(client, "ner_exit_policy_tau") == -0.001
    assert sample(client, "ner_exit_policy_patience") == 1
    assert sample(client, "ner_exit_policy_version") == 1
    assert sample(client, "ner_engine_up") == 1
    assert sample(client, "ner_build_info", version=__version__, device="cpu", dtype="float32") == 1


def test_what_calibration_expects_of_the_policy_is_there_and_follows_it(start: Start, calibrated_folder: Path) -> None:
    client = start(model=str(calibrated_folder))
    for change in ({"preset": "balanced"}, {"preset": "fast"}):
        expected = client.patch("/exit-policy", json=change, headers=AS_ADMIN).json()["expected"]
        for field in ("f1", "f1_loss", "average_exit_layer", "speedup_latency"):
            assert sample(client, f"ner_exit_policy_expected_{field}") == expected[field]
    client.patch("/exit-policy", json={"tau": 0.123}, headers=AS_ADMIN)
    assert math.isnan(sample(client, "ner_exit_policy_expected_f1"))


def test_what_nobody_measured_is_not_a_number(client: TestClient) -> None:
    for field in ("f1", "f1_loss", "average_exit_layer", "speedup_latency"):
        assert math.isnan(sample(client, f"ner_exit_policy_expected_{field}"))


def test_what_the_process_takes_is_measured(client: TestClient) -> None:
    assert sample(client, "process_resident_memory_bytes") > 50e6
    assert sample(client, "process_cpu_seconds_total") > 0
    assert 0 < sample(client, "process_open_fds") < sample(client, "process_max_fds")


def test_a_request_moves_what_it_should(client: TestClient) -> None:
    result = client.post("/ner", json={"text": ENTITY_TEXT, "exit_policy": {"strategy": "full_depth"}}).json()
    client.post("/ner", json={"texts": ["Ben", "Anna", "Rome"], "exit_policy": {"strategy": "budgeted", "layer": 1}})
    assert sample(client, "ner_requests_total", endpoint="/ner", code="200") == 2
    assert sample(client, "ner_sequences_total") == 4
    assert sample(client, "ner_layers_executed_total") == 4 + 3 * 1
    assert sample(client, "ner_layers_saved_total") == 3 * 3
    assert sample(client, "ner_exit_layer_sum") == 4 + 3 * 1
    assert sample(client, "ner_exit_layer_bucket", le="1.0") == 3
    assert sample(client, "ner_exit_reason_total", reason="budget") == 3
    assert sample(client, "ner_exit_reason_total", reason="last_layer") == 1
    assert sample(client, "ner_tokens_total") >= len(ENTITY_TEXT.split()) + 2 + 3 * 3
    entity = result["entities"][0]
    assert sample(client, "ner_entities_total", label=entity["label"]) >= 1
    for name in ("duration", "tokenize", "queue", "inference", "decode"):
        assert sample(client, f"ner_request_{name}_seconds_count") == 2
    assert sample(client, "ner_requests_running") == sample(client, "ner_requests_waiting") == 0


def test_what_was_answered_before_runs_no_layer_and_is_counted_apart(start: Start) -> None:
    client = start(cache_bytes=100_000)
    answers = [client.post("/ner", json={"text": ENTITY_TEXT}).json() for _ in range(3)]
    assert sample(client, "ner_sequences_total") == 1
    assert sample(client, "ner_reused_sequences_total", source="cache") == 2
    assert 0 < sample(client, "ner_cache_bytes") <= 100_000
    for one in answers:
        one.pop("timing_ms")
    assert answers == [answers[0]] * 3
    assert answers[0]["entities"]


def test_the_histograms_of_a_step_count_every_layer_that_ran(client: TestClient) -> None:
    client.post("/ner", json={"texts": ["Ben", "Anna"], "exit_policy": {"strategy": "full_depth"}})
    wait_until(lambda: sample(client, "ner_step_seconds_count") == 4)  # the last one is counted after the answer
    assert sample(client, "ner_step_batch_sequences_count") == sample(client, "ner_step_batch_tokens_count") == 4
    assert sample(client, "ner_step_batch_sequences_sum") == 8
    assert sample(client, "ner_step_batch_tokens_sum") == 4 * sample(client, "ner_tokens_total")


def test_speedup_is_layers_over_average_exit_layer_of_the_policy_in_force(client: TestClient) -> None:
    client.patch("/exit-policy", json={"strategy": "budgeted", "layer": 2}, headers=AS_ADMIN)
    client.post("/ner", json={"text": ENTITY_TEXT})
    assert sample(client, "ner_speedup_layers") == 2


def test_neither_tau_nor_text_is_ever_a_label(client: TestClient) -> None:
    marker = {"text": "Zanzibarbara", "exit_policy": {"tau": -0.098765}}
    client.post("/ner", json=marker)
    client.post("/ner", json={**marker, "labels": ["Zanzibarbara"]})
    client.patch("/exit-policy", json={"tau": -0.098765}, headers=AS_ADMIN)
    client.get("/Zanzibarbara")
    found = samples(client)
    assert not any("Zanzibarbara" in value or "098765" in value for one in found for value in one.labels.values())
    known = set().union({"model_name"}, *SERIES.values(), *OF_THE_PROCESS.values())
    assert {label for one in found for label in one.labels} == known


def test_a_restart_is_no_change_of_the_policy(client: TestClient, start: Start, build: Build) -> None:
    client.patch("/exit-policy", json={"tau": -0.5}, headers=AS_ADMIN)
    restarted = start(build())
    assert restarted.get("/exit-policy").json()["updated_by"] == "api"
    assert sample(restarted, "ner_exit_policy_changes_total", source="api") == 0
    assert sample(restarted, "ner_exit_policy_version") == 2


def test_a_refused_change_is_not_counted(client: TestClient) -> None:
    client.patch("/exit-policy", json={"tau": "low"}, headers=AS_ADMIN)
    client.patch("/exit-policy?dry_run=true", json={"tau": -0.5}, headers=AS_ADMIN)
    assert sample(client, "ner_exit_policy_changes_total", source="api") == 0
    assert sample(client, "ner_exit_policy_version") == 1


def test_looking_at_the_console_is_no_request_for_entities(client: TestClient) -> None:
    before = sample(client, "ner_requests_total", endpoint="/", code="200")
    assert client.get("/").status_code == 200
    assert sample(client, "ner_requests_total", endpoint="/", code="200") == before
    assert sample(client, "ner_requests_total", endpoint="console", code="200") == 1


def test_one_of_several_processes_says_so_when_nobody_has_the_metrics_of_all(
    start: Start, build: Build, tmp_path: Path
) -> None:
    service = build()
    service.link = Link(tmp_path / "nobody-is-here")
    refused = start(service).get("/metrics")
    assert (refused.status_code, refused.json()["error_type"]) == (503, "NotReady")
    assert "ask again later" in refused.json()["error"]
