"""What the tests of the policy stores share: a real Redis, and replicas on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.policy.redis_ import RedisServer, Replicas


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """On an empty folder."""
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def replicas(tmp_path: Path, redis_server: RedisServer) -> Iterator[Replicas]:
    """On that server, each with a folder of its own."""
    replicas = Replicas(tmp_path, redis_server.url)
    yield replicas
    replicas.close()
