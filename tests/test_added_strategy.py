"""A strategy is one file: with it and no other edit it is served, counted, described, swept, reported and documented.

That the console shows it is for tests/e2e/test_console.py to tell.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.added_strategy_ import NAME, REASON, TITLE, copy_with_strategy
from tests.api.servers_ import ADMIN_KEY, AS_ADMIN, ENTITY_TEXT, ServerProcess
from tests.evaluation.traces_ import tiny_examples, tiny_stored, write_jsonl
from tests.models_ import save_tiny_model, tiny_config


@dataclass(frozen=True)
class Added:
    """The project with the added file, and a tiny model that it calibrated."""

    project: Path
    data: Path

    def run(self, *arguments: str | Path) -> str:
        """Run Python in the project; -> what it printed."""
        environment = {**os.environ, "PYTHONPATH": str(self.project), "NER_DEVICE": "cpu"}
        command = [sys.executable, *map(str, arguments)]
        done = subprocess.run(command, cwd=self.project, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def points(self) -> list[dict[str, Any]]:
        """What calibration measured of it."""
        written = json.loads((self.project / "store/tiny/1/operating_points.json").read_text(encoding="utf-8"))
        found: list[dict[str, Any]] = [*written["points"], *written["others"]]
        return [point for point in found if point["parameters"]["strategy"] == NAME]


@pytest.fixture(scope="module")
def added(tmp_path_factory: pytest.TempPathFactory) -> Added:
    project = copy_with_strategy(tmp_path_factory.mktemp("project"))
    config = tiny_config(num_layers=4)
    save_tiny_model(project / "store" / "tiny" / "1", config)
    data = project / "data.jsonl"
    write_jsonl(data, tiny_examples(tiny_stored(config), 30, seed=1, sentence_words=(4, 6, 9)))
    found = Added(project, data)
    options = ("--store", "store", "--device", "cpu", "--threads", "1", "--executor", "eager")
    found.run("-m", "service", "calibrate", "tiny", data, *options)
    return found


@pytest.fixture(scope="module")
def url(added: Added, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("state")
    settings = {"NER_MODEL": str(added.project / "store/tiny/1"), "NER_ADMIN_KEY": ADMIN_KEY, "NER_EXECUTOR": "eager"}
    server = ServerProcess(folder, project=added.project, NER_STATE_DIR=str(folder), **settings)
    try:
        yield server.wait_ready()
    finally:
        server.kill()


def call(url: str, method: str = "GET", body: object = None) -> str:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {**AS_ADMIN, "Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=60) as response:
        answered: str = response.read().decode()
        return answered


def test_it_is_served_with_its_calibrated_default_and_its_own_reason(added: Added, url: str) -> None:
    policy = json.loads(call(f"{url}/exit-policy", "PATCH", {"strategy": NAME}))
    calibrated = added.points[-1]["parameters"]
    assert {name: policy[name] for name in calibrated} == calibrated and policy["expected"] is not None
    certain = {"tau": 1.0, "earliest": 3}
    answer = json.loads(call(f"{url}/ner", "POST", {"text": ENTITY_TEXT, "trace": True, "exit_policy": certain}))
    assert [(one["exit_layer"], one["exit_reason"]) for one in answer["sequences"]] == [(3, REASON)]
    assert answer["exit_policy"] == {"strategy": NAME, **certain}
    assert f'ner_exit_reason_total{{model_name="tiny@1",reason="{REASON}"}} 1.0' in call(f"{url}/metrics")


def test_it_is_described_on_the_wire_and_in_the_openapi_document(url: str) -> None:
    (told,) = [one for one in json.loads(call(f"{url}/exit-policy/strategies")) if one["strategy"] == NAME]
    assert told["title"] == TITLE and told["lacks"] is None and told["exit_reasons"] == [REASON]
    assert [one["name"] for one in told["parameters"]] == ["tau", "earliest"]
    document = call(f"{url}/openapi.json")
    assert f'"{REASON}"' in document and "SurestWordInForce" in document
    assert NAME in json.loads(call(f"{url}/models"))[0]["strategies"]


def test_it_is_swept_and_reported(added: Added) -> None:
    assert {point["parameters"]["earliest"] for point in added.points} <= {1, 2} and added.points
    argument = f"tiny={added.data},{added.data}"
    options = ("--store", "store", "--device", "cpu", "--threads", "1", "--executor", "eager")
    added.run("-m", "service", "report", argument, "--output", "report", *options)
    page = (added.project / "report" / "results.md").read_text(encoding="utf-8")
    assert f"\n| {TITLE} | " in page


def test_it_is_documented(added: Added) -> None:
    added.run("-m", "docs.generate")
    page = (added.project / "docs" / "strategies.md").read_text(encoding="utf-8")
    assert f"`{NAME}`" in page and "even the least certain cell is certain" in page and "`earliest`" in page
