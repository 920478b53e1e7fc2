"""The server against its own OpenAPI document: schemathesis sends what the document allows and what it forbids."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.servers_ import ADMIN_KEY, PROJECT, ServerProcess

CONFIG = PROJECT / "tests" / "e2e" / "schemathesis.toml"
TIMEOUT_S = 480


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """The shipped model, with both keys."""
    settings = {"NER_STATE_DIR": str(tmp_path / "state"), "NER_API_KEY": "the-api-key", "NER_ADMIN_KEY": ADMIN_KEY}
    server = ServerProcess(tmp_path, **settings, NER_DRAIN_S="0")
    yield server
    server.kill()


def test_what_the_document_allows_and_what_it_forbids_is_answered_as_it_says(
    server: ServerProcess, tmp_path: Path
) -> None:
    program = Path(sys.executable).with_name("schemathesis")
    document = ("run", f"{server.wait_ready()}/openapi.json", "--header", f"Authorization: Bearer {ADMIN_KEY}")
    extent = ("--max-examples", "100", "--seed", "1", "--continue-on-failure", "--no-color")
    run = subprocess.run(
        [program, "--config-file", CONFIG, *document, *extent],
        cwd=tmp_path,  # what it found, it leaves where it runs
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    print(run.stdout)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "traceback" not in server.log
