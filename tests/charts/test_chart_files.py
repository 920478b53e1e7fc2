"""The chart beside what it is a chart of, as far as that can be told without Helm; `make e2e` renders it."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

from service.settings import Settings

PROJECT = Path(__file__).resolve().parents[2]
CHART = PROJECT / "charts" / "vee-ner"


def test_the_chart_is_of_this_version() -> None:
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    about = (CHART / "Chart.yaml").read_text(encoding="utf-8")
    assert re.findall(r"^(?:appV|v)ersion: (.+)$", about, re.MULTILINE) == [version, version]


def test_every_setting_is_either_a_value_s_own_or_may_be_given() -> None:
    templates = (CHART / "templates" / "_environment.tpl").read_text(encoding="utf-8")
    own = set(re.findall(r"name: (NER_\w+)", templates)) - {"NER_THREADS"}  # set unless it is given
    keys = {name.removesuffix("_FILE") for name in own if name.endswith("_FILE")}  # never in a variable itself
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    given = set(schema["properties"]["settings"]["propertyNames"]["enum"])
    assert not given & (own | keys)
    assert given | own | keys == {f"NER_{name.upper()}" for name in Settings.model_fields}


def test_rules_and_dashboards_are_the_composition_s_own_files_and_no_copies() -> None:
    assert (CHART / "rules").resolve() == PROJECT / "docker" / "prometheus" / "rules"
    assert (CHART / "dashboards").resolve() == PROJECT / "docker" / "grafana" / "dashboards"
    assert list((CHART / "rules").glob("*.yml")) and list((CHART / "dashboards").glob("*.json"))


def test_redis_is_the_composition_s() -> None:
    values = (CHART / "values.yaml").read_text(encoding="utf-8")
    found = re.search(r"image: \{repository: (redis), tag: ([\w.-]+)", values)
    assert found is not None
    assert f"image: {found[1]}:{found[2]}\n" in (PROJECT / "docker-compose.yml").read_text(encoding="utf-8")
