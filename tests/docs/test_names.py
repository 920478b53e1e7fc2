"""What the pages name exists: commands, options, targets, variables, metrics, alerts, endpoints, files, packages."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from docs.generate import OTHER_VARIABLES
from service import __main__ as command_line
from service.api.app import create_app
from service.settings import Settings
from tests.api.servers_ import tiny_service
from tests.docs.pages_ import PAGES, PROJECT, Page, commands

of_every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
MONITORING = next(page for page in PAGES if page.name == "docs/monitoring.md")
FOLDERS = ("service", "clients", "charts", "tests", "docs", "docker", "benchmarks", "dashboards", "examples")
NOT_METRICS = {"ner_client", "ner_many", "ner_spacy", "ner_model_configuration"}


class _Parsed(Exception):
    """A command line was understood, and is not to be run."""


@pytest.fixture
def understand(monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """Let `command_line.main` stop after parsing."""
    parse = argparse.ArgumentParser.parse_args

    def parse_only(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
        raise _Parsed(parse(parser, arguments))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)


@pytest.fixture(scope="module")
def client(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with TestClient(create_app(tiny_service(model_folder, tmp_path_factory.mktemp("state")))) as client:
        yield client


@of_every_page
def test_every_command_of_ours_is_understood(page: Page, understand: None) -> None:
    for command in commands(page):
        module, *arguments = shlex.split(command, comments=True)
        if module == "service":
            with pytest.raises(_Parsed):
                command_line.main(arguments)


@of_every_page
def test_every_module_that_is_run_exists_and_has_the_options_it_is_given(page: Page) -> None:
    for command in [*commands(page), *_commands_in_prose(page)]:
        module, *arguments = shlex.split(command, comments=True)
        if module == "service":
            continue
        assert find_spec(module), f"{page.name}: python -m {command}"
        source = "".join(path.read_text(encoding="utf-8") for path in (PROJECT / "benchmarks").glob("*.py"))
        options = [argument for argument in arguments if argument.startswith("--") and module != "pytest"]
        assert [option for option in options if f'"{option}"' not in source] == []


def _commands_in_prose(page: Page) -> list[str]:
    return [found[1] for span in page.spans if (found := re.match(r"(?:.*)python -m (.+)", span))]


@of_every_page
def test_every_command_in_the_prose_is_one(page: Page, understand: None, capsys: pytest.CaptureFixture[str]) -> None:
    for command in _commands_in_prose(page):
        if command.startswith("service "):
            with pytest.raises(SystemExit):  # its arguments are left out there, so ask what it would take
                command_line.main([command.split()[1], "--help"])
            assert "usage" in capsys.readouterr().out


@of_every_page
def test_every_target_of_make_exists(page: Page) -> None:
    targets = set(re.findall(r"^([a-z0-9]+):", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    code = [*page.spans, *(line for block in page.blocks for line in block.text.splitlines())]
    named = {found[1] for text in code if (found := re.match(r"(?:[A-Z_]+=\S+ )*make ([a-z0-9]+)", text))}
    assert named - targets == set()


@of_every_page
def test_every_variable_is_a_setting_or_read_by_something_else(page: Page) -> None:
    known = {f"NER_{name.upper()}" for name in Settings.model_fields} | OTHER_VARIABLES.keys()
    assert set(re.findall(r"\bNER_[A-Z0-9_]+\b", page.text)) - known == set()


@of_every_page
def test_every_metric_is_exposed(page: Page, client: TestClient) -> None:
    named = set(re.findall(r"(?<![\w:/])ner_[a-z0-9_]+", page.text))
    assert named - exposed(client) - NOT_METRICS == set()


def exposed(client: TestClient) -> set[str]:
    """Names of metrics: a histogram's own, and a counter's with its _total."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {f"{family.name}_total" if family.type == "counter" else family.name for family in families}


def test_every_metric_of_ours_is_on_its_page(client: TestClient) -> None:
    ours = {name for name in exposed(client) if name.startswith("ner_") and not name.endswith("_created")}
    assert {name for name in ours if f"`{name}`" not in MONITORING.text} == set()


def test_the_alerts_are_those_on_their_page() -> None:
    rules = (PROJECT / "docker" / "prometheus" / "rules" / "alerts.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"alert: (\w+)", rules)) == set(re.findall(r"`(Ner[A-Z]\w+)`", MONITORING.text))


@of_every_page
def test_every_endpoint_exists(page: Page, client: TestClient) -> None:
    named = set(re.findall(r"\b(GET|POST|PATCH) (/[\w/-]*)", page.text))
    reached = {("GET", path) for path in re.findall(r"(?:localhost|127\.0\.0\.1):8000(/[\w/-]+)", page.prose)}
    bare = {("GET", span) for span in page.spans if re.fullmatch(r"/[a-z]+", span)}
    unknown = (404, 405)
    assert [one for one in named | reached | bare if client.request(*one).status_code in unknown] == []


@of_every_page
def test_every_test_that_is_named_in_a_command_exists(page: Page) -> None:
    named = [argument for command in commands(page) if command.startswith("pytest") for argument in command.split()]
    assert [name for name in named if name.startswith("tests/") and not (PROJECT / name).exists()] == []


@of_every_page
def test_every_file_exists(page: Page) -> None:
    named = [
        span for span in page.spans if span.split("/")[0] in FOLDERS and re.fullmatch(r"[\w./*-]+/[\w./*-]*", span)
    ]
    assert [name for name in named if not list(PROJECT.glob(name))] == []


def test_every_package_is_on_the_page_of_the_architecture() -> None:
    page = next(page for page in PAGES if page.name == "docs/architecture.md")
    packages = {path.parent.name for path in (PROJECT / "service").glob("*/__init__.py")}
    assert {name for name in packages if f"| `{name}` |" not in page.text} == set()
