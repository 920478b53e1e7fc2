"""The dashboards against the real service under traffic and a real Prometheus that scrapes it."""

from __future__ import annotations

import json
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.api.servers_ import ADMIN_KEY, AS_ADMIN, ServerProcess, wait_until
from tests.e2e.panels_ import DASHBOARDS, ask, empty_panels, filled, load, panels_of, query
from tests.e2e.prometheus_ import prometheus_scraping, rules

TEXTS = (
    "Angela Merkel flew from Rome to meet officials of the European Commission.",
    "Shares of Siemens rose. Analysts in Frankfurt had expected less.",
    "It rained.",
)


class Watched(NamedTuple):
    """URLs of a service under traffic and of the Prometheus that scrapes it."""

    service: str
    prometheus: str


def send(url: str, method: str, body: dict[str, Any]) -> Any:
    """Send JSON with the admin key; -> the answer's JSON."""
    headers = {"Content-Type": "application/json", **AS_ADMIN}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method=method)
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


RIGHT = {"text": "Ada Lovelace lived in London.", "entities": [{"start": 0, "end": 12, "label": "PER"}]}


def ask_on(url: str, stop: threading.Event) -> None:
    """Ask one text after the other, some twenty a second."""
    while not stop.wait(0.05):
        for text in TEXTS:
            send(f"{url}/ner", "POST", {"text": text})


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """The service with its shipped model, asked all the time, whose policy was changed once after the first scrapes."""
    folder = tmp_path_factory.mktemp("watched")
    settings = {"NER_STATE_DIR": str(folder / "state"), "NER_ADMIN_KEY": ADMIN_KEY, "NER_SHADOW_FRACTION": "1"}
    server = ServerProcess(folder, **settings)
    stop = threading.Event()
    try:
        url = server.wait_ready()
        traffic = threading.Thread(target=ask_on, args=(url, stop))
        traffic.start()
        try:
            with prometheus_scraping(url.removeprefix("http://"), folder) as prometheus:
                wait_until(lambda: query(prometheus, "ner_exit_policy_version"))
                send(f"{url}/exit-policy", "PATCH", {"preset": "fast"})
                send(f"{url}/feedback", "POST", RIGHT)
                yield Watched(url, prometheus)
        finally:
            stop.set()
            traffic.join()
    finally:
        server.kill()


def settled(read: Callable[[], Any], wanted: Any) -> Any:
    """What `read` gives once it is `wanted`, or at the end of all patience."""
    with suppress(TimeoutError):
        wait_until(lambda: read() == wanted)
    return read()


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_every_panel_has_data(watched: Watched, dashboard: Path) -> None:
    assert settled(lambda: empty_panels(dashboard, watched.prometheus), []) == []


def test_a_panel_without_data_is_told(watched: Watched, tmp_path: Path) -> None:
    expressions = {"absent": "ner_nothing", "nan": "0 * NaN + ner_engine_up", "wrong": "sum(", "there": "ner_engine_up"}
    panels = [{"title": title, "type": "stat", "targets": [{"expr": e}]} for title, e in expressions.items()]
    path = tmp_path / "board.json"
    path.write_text(json.dumps({"panels": [{"type": "row", "panels": panels[:2]}, *panels[2:]]}), encoding="utf-8")
    wait_until(lambda: query(watched.prometheus, "ner_engine_up"))
    assert [panel.split(":")[0] for panel in empty_panels(path, watched.prometheus)] == ["absent", "nan", "wrong"]


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_every_label_that_a_legend_shows_is_there(watched: Watched, dashboard: Path) -> None:
    assert settled(lambda: empty_panels(dashboard, watched.prometheus), []) == []
    for panel in panels_of(load(dashboard)):
        for target in panel["targets"]:
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            series = [dict(labels) for labels in query(watched.prometheus, target["expr"])]
            assert series, panel["title"]
            for labels in series:
                without = set() if labels.get("strategy") == "vee" else {"measure"}  # no other strategy has one
                assert shown <= labels.keys() | without, panel["title"]


def test_a_change_of_the_policy_is_marked_with_who_made_it_and_what_it_was(watched: Watched) -> None:
    [marks] = load(DASHBOARDS[0])["annotations"]["list"]
    expression = filled(marks["expr"], rate_interval="20s")  # as Grafana has it, for scrapes every 5 s

    def marked() -> list[dict[str, str]]:
        now = time.time()
        span = {"start": str(now - 300), "end": str(now), "step": marks["target"]["interval"]}
        return [one["metric"] for one in ask(watched.prometheus, "query_range", query=expression, **span)["result"]]

    change = [{"source": "api", "version": "2", "strategy": "learned"}]
    assert settled(marked, change) == change


def test_the_choice_of_models_is_that_of_the_service(watched: Watched) -> None:
    [variable] = [one for one in load(DASHBOARDS[0])["templating"]["list"] if one["type"] == "query"]
    found = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"])
    assert found is not None
    names = ask(watched.prometheus, f"label/{found[2]}/values", **{"match[]": found[1]})
    assert names == ["general-minilm-research@1"]


def test_every_rule_runs_and_every_recorded_series_is_there(watched: Watched) -> None:
    recorded = [rule["record"] for rule in rules() if "record" in rule]
    assert settled(lambda: [name for name in recorded if not query(watched.prometheus, name)], []) == []
    running = [rule for group in ask(watched.prometheus, "rules")["groups"] for rule in group["rules"]]
    assert len(running) == len(rules())
    assert [rule["lastError"] for rule in running if rule["health"] != "ok"] == []


def test_nothing_alarms_about_a_service_that_is_well(watched: Watched) -> None:
    wait_until(lambda: query(watched.prometheus, "instance:ner_requests:rate1m"))
    assert query(watched.prometheus, 'ALERTS{alertname!="NerSlow"}') == {}  # how fast it is depends on the machine
