"""Where the policy is kept, as the setting says; and what HTTP says while the store that replicas share is away."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from service.api.state import Service
from service.errors import BadInput
from tests.api.servers_ import AS_ADMIN, sample, tiny_service, wait_until
from tests.policy.redis_ import RedisServer, needs_redis

Start = Callable[..., TestClient]
Build = Callable[..., Service]


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """With nothing in it."""
    with RedisServer(tmp_path / "redis") as server:
        yield server


def patch(client: TestClient, layer: int) -> tuple[int, dict[str, object]]:
    answer = client.patch("/exit-policy", json={"strategy": "budgeted", "layer": layer}, headers=AS_ADMIN)
    return answer.status_code, answer.json()


def test_without_the_setting_the_state_folder_keeps_it_and_nobody_follows(
    build: Build, start: Start, tmp_path: Path
) -> None:
    service = build()
    assert service.follower is None
    client = start(service)
    patch(client, 2)
    assert len(list((tmp_path / "state").rglob("exit_policy.json"))) == 1 and sample(client, "ner_policy_store_up") == 1


@needs_redis
def test_servers_that_name_one_redis_have_one_policy(
    start: Start, redis_server: RedisServer, tmp_path: Path, model_folder: Path
) -> None:
    (tmp_path / "url").write_text(f"{redis_server.url}\n", encoding="utf-8")
    one = start(policy_store=redis_server.url)
    other = start(tiny_service(model_folder, tmp_path / "other", policy_store_file=str(tmp_path / "url")))
    assert patch(one, 2)[0] == 200
    wait_until(lambda: other.get("/exit-policy").json().get("layer") == 2)
    assert other.get("/exit-policy").headers["ETag"] == '"2"'
    assert other.get("/exit-policy/history").json() == one.get("/exit-policy/history").json()
    assert other.post("/ner", json={"text": "Ada"}).json()["policy_version"] == 2
    assert sample(other, "ner_exit_policy_version") == sample(other, "ner_exit_policy_changes_total", source="api") + 1


@needs_redis
def test_while_redis_is_away_a_change_gets_503_and_everything_else_is_as_before(
    start: Start, redis_server: RedisServer
) -> None:
    client = start(policy_store=redis_server.url)
    before = client.get("/exit-policy").json()
    assert sample(client, "ner_policy_store_up") == 1
    redis_server.kill()
    status, said = patch(client, 2)
    assert (status, said["error_type"]) == (503, "PolicyStoreDown")
    assert redis_server.url in str(said["error"]) and "nothing was changed" in str(said["error"])
    wait_until(lambda: sample(client, "ner_policy_store_up") == 0)
    assert client.get("/readyz").status_code == client.get("/livez").status_code == 200
    assert client.get("/exit-policy").json() == before
    assert client.post("/ner", json={"text": "Ada"}).json()["policy_version"] == 1
    redis_server.start()
    wait_until(lambda: sample(client, "ner_policy_store_up") == 1)
    assert patch(client, 2)[1]["version"] == 2


def test_a_store_that_is_no_redis_is_refused_at_the_start(build: Build) -> None:
    with pytest.raises(
        BadInput, match=r"NER_POLICY_STORE has the scheme 'etcd' .*; expected redis://HOST:PORT/DATABASE"
    ):
        build(policy_store="etcd://s3cret@host")


def test_where_the_client_of_redis_is_not_installed_the_setting_is_refused_and_nothing_else_needs_it(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "service.policy.redis_store", raising=False)
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(BadInput, match=r"the package redis is not installed; install requirements.txt, or unset it"):
        build(policy_store="redis://127.0.0.1:1/0")
    assert build().follower is None
