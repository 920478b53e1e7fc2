"""The examples of the pages, run against a real server: what a page shows is what is printed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.servers_ import PATIENCE_S, PROJECT, ServerProcess
from tests.clients.installed_ import install_clients
from tests.docs.examples_ import differences, examples, files
from tests.docs.pages_ import PAGES, Block, Page

NAMES = ("README.md", "docs/exit-policy.md", "docs/autopilot.md", "docs/clients.md")
RUN = [page for page in PAGES if page.name in NAMES]
SENTENCES = '{"entities": [{"label": "PER", "score": 0.91}, ...], "timing_ms": {"total": 1.5}, "num_layers": 6, ...}'


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A server on the model that ships, as `make serve` starts it; its state lies in `state`."""
    process = ServerProcess(tmp_path, NER_STATE_DIR=str(tmp_path / "state"), NER_DRAIN_S="0")
    try:
        yield process.wait_ready()
    finally:
        process.kill()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clients, which pages tell how to install."""
    return install_clients(tmp_path_factory.mktemp("clients"))


def run(block: Block, url: str, folder: Path, installed: Path) -> str:
    """-> what the block prints on standard output."""
    code = block.text.replace("http://127.0.0.1:8000", url).replace("localhost:8000", url)
    code = code.replace(".venv/bin/python", sys.executable)
    command = ["bash", "-euc", code] if block.language == "sh" else [sys.executable, "-c", code]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("NER_", "HF_"))}
    path = os.pathsep.join(map(str, (installed, PROJECT)))
    ours = {"PYTHONPATH": path, "NER_URL": url, "HF_HOME": str(folder), "NO_PROXY": "127.0.0.1"}
    return subprocess.run(
        command,
        cwd=folder,
        env={**inherited, **ours},
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    ).stdout


@pytest.mark.skipif(not (shutil.which("bash") and shutil.which("curl")), reason="the examples are for bash and curl")
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_every_example_prints_what_the_page_shows(page: Page, url: str, tmp_path: Path, installed: Path) -> None:
    shown = list(examples(page))
    assert shown
    for name, text in files(page).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    for block, expected in shown:
        assert differences(expected, run(block, url, tmp_path, installed)) == [], block.text


@pytest.mark.parametrize(
    ("printed", "count"),
    [
        ('{"entities": [{"label": "PER", "score": 0.92}], "timing_ms": {"total": 7.5}, "num_layers": 6, "x": 1}', 0),
        ('{"entities": [{"label": "PER", "score": 0.99}], "timing_ms": {"total": 7.5}, "num_layers": 6}', 1),
        ('{"entities": [], "timing_ms": {"total": 7.5}, "num_layers": 6}', 1),
        ('{"entities": [{"label": "PER", "score": 0.91}], "timing_ms": {}, "num_layers": 5}', 2),
    ],
)
def test_what_is_printed_is_compared_with_what_is_shown(printed: str, count: int) -> None:
    assert len(differences(Block("json", SENTENCES), printed)) == count
