"""The command line as a whole: its version, the options of `serve`, and the targets of make."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from service import __main__ as command_line
from service import __version__
from service.settings import Settings, read_settings

ROOT = Path(__file__).parents[1]


def test_the_version_is_that_of_the_package_and_of_the_project(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        command_line.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"vee-ner {__version__}\n"
    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings that `serve` starts with, which is as far as it gets here."""
    found: list[Settings] = []
    monkeypatch.setattr("service.api.server.serve", lambda started: found.append(read_settings()))
    for name in ("MODEL", "HOST", "PORT"):
        monkeypatch.setenv(f"NER_{name}", {"PORT": "81"}.get(name, "of the environment"))
    return found


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--model", "a@1", "--host", "::1", "--port", "0"], ("a@1", "::1", 0)),
        (["--port", "82"], ("of the environment", "of the environment", 82)),
        ([], ("of the environment", "of the environment", 81)),
    ],
)
def test_options_of_serve_go_before_the_environment(
    seen: list[Settings], options: list[str], expected: tuple[str, str, int]
) -> None:
    assert command_line.main(["serve", *options]) == 0
    assert [(one.model, one.host, one.port) for one in seen] == [expected]


def test_a_port_that_is_none_is_refused_as_the_variable_is(
    seen: list[Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line.main(["serve", "--port", "many"]) == 2
    assert "NER_PORT='many'" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_help_lists_every_target_with_what_it_does() -> None:
    # Under "make test" this make is a sub-make, and would print which directory it enters too.
    command = ["make", "--no-print-directory", "help"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert {line.split()[0] for line in listed.splitlines()} == set(phony.split())
    assert all(len(line.split()) > 2 for line in listed.splitlines())
