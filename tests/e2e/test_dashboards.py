"""The committed dashboards: made by the generator, whole, and about metrics that the service has."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.testclient import TestClient

from dashboards.queries import DEFAULT_P95_S
from service.api.app import create_app
from tests.api.servers_ import samples, tiny_service
from tests.e2e.panels_ import DASHBOARDS, PROJECT, expressions, labels_in, load, names_in, panels_of
from tests.e2e.prometheus_ import rules
from tests.models_ import save_tiny_model

OF_PROMETHEUS = {"ALERTS", "up"}
LABELS_OF_PROMETHEUS = {"job", "instance", "namespace", "service", "alertname", "alertstate"}
MADE_IN_A_QUERY = {"figure", "version"}
PROVISIONING = PROJECT / "docker" / "grafana" / "provisioning"

every_dashboard = pytest.mark.parametrize("dashboard", [load(path) for path in DASHBOARDS], ids=["overview", "engine"])


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """What a service exposes that has not been asked anything: the name of every sample, and its labels."""
    folder = save_tiny_model(tmp_path_factory.mktemp("store") / "tiny" / "1")
    with TestClient(create_app(tiny_service(folder, tmp_path_factory.mktemp("state")))) as client:
        return {sample.name: set(sample.labels) for sample in samples(client)}


def annotations(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = dashboard["annotations"]["list"]
    return found


def all_expressions(dashboard: dict[str, Any]) -> list[str]:
    """Of panels and annotations."""
    return [expression for _, expression in expressions(dashboard)] + [one["expr"] for one in annotations(dashboard)]


def dictionaries(value: Any) -> Iterator[dict[str, Any]]:
    """Every JSON object within a value, itself included."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from dictionaries(inner)


def test_what_is_committed_is_what_the_generator_makes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "dashboards", str(tmp_path)], cwd=PROJECT, check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in DASHBOARDS)
    for path in DASHBOARDS:
        assert (tmp_path / path.name).read_text() == path.read_text(), "run `make dashboards`"


def test_the_generator_passes_strict_type_checks_with_the_types_of_the_sdk() -> None:
    checked = subprocess.run([sys.executable, "-m", "mypy", "dashboards"], cwd=PROJECT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


@every_dashboard
def test_every_panel_has_an_id_of_its_own_and_every_query_a_ref_id(dashboard: dict[str, Any]) -> None:
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert ids == list(range(1, len(ids) + 1))
    for panel in panels_of(dashboard):
        refs = [target["refId"] for target in panel["targets"]]
        assert refs == list("ABCDEF"[: len(refs)]) and refs, panel["title"]


@every_dashboard
def test_every_panel_says_what_it_shows(dashboard: dict[str, Any]) -> None:
    titles = [panel["title"] for panel in panels_of(dashboard)]
    assert len(titles) == len({(panel["title"], panel["type"]) for panel in panels_of(dashboard)})
    for panel in panels_of(dashboard):
        assert panel["description"].endswith("."), panel["title"]
        if panel["type"] not in ("heatmap", "state-timeline"):  # these show counts, and names
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]


@every_dashboard
def test_the_data_source_is_a_variable_wherever_one_is_named(dashboard: dict[str, Any]) -> None:
    [variable] = [one for one in dashboard["templating"]["list"] if one["type"] == "datasource"]
    named = [found["datasource"] for found in dictionaries(dashboard) if "datasource" in found]
    assert len(named) > 2 * len(list(panels_of(dashboard)))
    assert all(source == {"type": "prometheus", "uid": f"${{{variable['name']}}}"} for source in named)
    assert all("datasource" in part for panel in panels_of(dashboard) for part in (panel, *panel["targets"]))


def test_every_metric_and_label_that_dashboards_and_rules_name_is_one_that_the_service_exposes(
    exposed: dict[str, set[str]],
) -> None:
    named = [expression for path in DASHBOARDS for expression in all_expressions(load(path))]
    named += [rule["expr"] for rule in rules()]
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    assert all(map(names_in, named))
    metrics = set().union(*map(names_in, named)) - recorded - OF_PROMETHEUS
    assert metrics <= exposed.keys()
    labels = set().union(*map(labels_in, named)) - MADE_IN_A_QUERY - LABELS_OF_PROMETHEUS
    assert labels <= set().union(*exposed.values())


def test_every_metric_of_the_service_is_on_a_dashboard_but_those_of_connections(exposed: dict[str, set[str]]) -> None:
    def families(names: Iterable[str]) -> set[str]:
        return {re.sub("_(bucket|sum|count|total|created)$", "", name) for name in names if name.startswith("ner_")}

    shown = set().union(*(names_in(query) for path in DASHBOARDS for _, query in expressions(load(path))))
    assert families(exposed) - families(shown) == {"ner_connections", "ner_connections_refused"}


@every_dashboard
def test_panels_lie_within_the_grid_and_none_on_another(dashboard: dict[str, Any]) -> None:
    taken = [
        (x, y)
        for position in (panel["gridPos"] for panel in dashboard["panels"])
        for x, y in product(
            range(position["x"], position["x"] + position["w"]), range(position["y"], position["y"] + position["h"])
        )
    ]
    assert len(taken) == len(set(taken))
    assert {x for x, _ in taken} == set(range(24))


@every_dashboard
def test_changes_of_the_policy_are_marked_with_who_made_them(dashboard: dict[str, Any]) -> None:
    [marks] = annotations(dashboard)
    assert marks["enable"] and marks["expr"] == marks["target"]["expr"]
    assert "ner_exit_policy_changes_total" in marks["expr"] and "{{source}}" in marks["titleFormat"]


def test_what_grafana_is_provisioned_with_fits_prometheus_and_the_dashboards() -> None:
    [source] = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yaml").read_text())["datasources"]
    [provider] = yaml.safe_load((PROVISIONING / "dashboards" / "ner.yaml").read_text())["providers"]
    prometheus = yaml.safe_load((PROJECT / "docker" / "prometheus" / "prometheus.yml").read_text())
    assert (source["type"], source["uid"], source["url"]) == ("prometheus", "prometheus", "http://prometheus:9090")
    assert source["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"]
    assert provider["options"]["path"] == "/etc/grafana/dashboards"


def test_dashboards_and_rules_have_the_same_objective_where_the_autopilot_has_none() -> None:
    rules = (PROJECT / "docker" / "prometheus" / "rules" / "recording.yml").read_text()
    assert f"({DEFAULT_P95_S} + 0 * ner_engine_up)" in rules
