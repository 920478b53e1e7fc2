"""Prometheus's rules: checked and tested by promtool, and every alert tested both ways."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
import yaml

from tests.e2e.panels_ import names_in
from tests.e2e.prometheus_ import CONFIGURATION, RULES, rules

TESTS = sorted((CONFIGURATION / "tests").glob("*.yml"))


def cases() -> list[dict[str, Any]]:
    """Every case of promtool's tests."""
    return [case for path in TESTS for case in yaml.safe_load(path.read_text())["tests"]]


def promtool(*arguments: object) -> str:
    """What promtool says; its failure is the test's."""
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_configuration_and_the_rules_are_valid() -> None:
    said = promtool("check", "config", "--lint-fatal", CONFIGURATION / "prometheus.yml")
    assert f"SUCCESS: {len(RULES)} rule files found" in said
    promtool("check", "rules", "--lint-fatal", *RULES)


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_the_rules_do_what_their_tests_say(path: object) -> None:
    assert "SUCCESS" in promtool("test", "rules", path)


def test_every_alert_is_tested_firing_and_not_firing() -> None:
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    tried = [one for case in cases() for one in case.get("alert_rule_test", ())]
    assert len(alerts) == 12
    assert {one["alertname"] for one in tried if one["exp_alerts"]} == alerts
    assert {one["alertname"] for one in tried if not one["exp_alerts"]} == alerts


def test_every_recorded_series_is_tested() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    tried = {one["expr"] for case in cases() for one in case.get("promql_expr_test", ()) if one["exp_samples"]}
    assert recorded and recorded <= set().union(*map(names_in, tried))


def test_every_alert_says_how_bad_it_is_what_is_the_matter_and_what_to_do() -> None:
    alerts = [rule for rule in rules() if "alert" in rule]
    assert alerts
    for alert in alerts:
        assert alert["labels"]["severity"] in ("warning", "critical")
        assert "{{ $labels.instance }}" in alert["annotations"]["summary"]
        assert alert["annotations"]["description"].endswith(".")
