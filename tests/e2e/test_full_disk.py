"""A running server whose disk has no room left, on a real small file system; tests/engine has the same by limits."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.api.servers_ import PATIENCE_S, ServerProcess

POLICIES = ({"preset": "fast"}, {"preset": "accurate"})


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "state"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mount.returncode != 0:
        pytest.skip(f"mounting a file system is not allowed here: {mount.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def servers(tmp_path: Path, small_disk: Path) -> Iterator[list[ServerProcess]]:
    """A server on that disk; and it is where further ones belong."""
    servers = [start(tmp_path, small_disk)]
    yield servers
    for server in servers:
        server.kill()


def start(folder: Path, state: Path) -> ServerProcess:
    return ServerProcess(folder, NER_STATE_DIR=str(state), NER_DRAIN_S="0")


def open_client(server: ServerProcess, state: Path) -> httpx.Client:
    url, key = server.wait_ready(), (state / "admin_key").read_text(encoding="utf-8")
    return httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=PATIENCE_S, trust_env=False)


def test_a_full_disk_refuses_changes_keeps_the_last_one_and_harms_nothing_else(
    servers: list[ServerProcess], small_disk: Path, tmp_path: Path
) -> None:
    with open_client(servers[0], small_disk) as client:
        version, answer = 1, client.patch("/exit-policy", json=POLICIES[0])
        while answer.status_code == 200:
            version = answer.json()["version"]
            answer = client.patch("/exit-policy", json=POLICIES[version % 2])
        assert (answer.status_code, answer.json()["error_type"]) == (500, "EngineFailed")
        assert "nothing was changed" in answer.json()["error"]
        assert client.get("/exit-policy").json()["version"] == version > 10
        assert client.post("/ner", json={"text": "Anna"}).status_code == client.get("/readyz").status_code == 200
        assert not list(small_disk.rglob("exit_policy.partial"))
    assert "No space left on device" in servers[0].log
    servers[0].kill()
    with suppress(OSError):  # to the last byte
        (small_disk / "filler").write_bytes(b"x" * 65_536)
    servers.append(start(tmp_path, small_disk))
    with open_client(servers[1], small_disk) as client:
        assert client.get("/exit-policy").json()["version"] == version
        assert client.patch("/exit-policy", json=POLICIES[0]).status_code == 500
    print({"changes_until_full": version - 1})
