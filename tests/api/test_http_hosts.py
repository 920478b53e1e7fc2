"""By which names a server may be addressed: a page whose name was rebound has none of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from service.api.hosts import AllowedHosts, HostRefused

Start = Callable[..., TestClient]
ADDRESSES = ("127.0.0.1", "127.0.0.1:8000", "10.1.2.3", "[::1]", "[::1]:8000", "[fe80::1]:80", "localhost:8000")


def allows(hosts: AllowedHosts, host: str) -> bool:
    try:
        hosts.check(host)
    except HostRefused:
        return False
    return True


@pytest.mark.parametrize("host", [*ADDRESSES, "LOCALHOST", "localhost."])
def test_addresses_and_localhost_are_always_names_of_the_server(host: str) -> None:
    assert allows(AllowedHosts([]), host)


@pytest.mark.parametrize(
    "host", ["rebound.example", "rebound.example:8000", "localhost.rebound.example", "127.0.0.1.rebound.example", ""]
)
def test_no_other_name_is(host: str) -> None:
    assert not allows(AllowedHosts([""]), host)


def test_the_operator_s_names_are_allowed_with_any_port_and_in_any_case() -> None:
    hosts = AllowedHosts(["ner", " NER.example.org ", "*.internal", ""])
    assert [allows(hosts, host) for host in ("ner:8000", "ner.EXAMPLE.org", "a.b.internal:1")] == [True] * 3
    assert [allows(hosts, host) for host in ("nerd", "example.org", "internal", "a-internal")] == [False] * 4
    assert allows(AllowedHosts(["*"]), "rebound.example")


@pytest.mark.parametrize("path", ["/livez", "/", "/info", "/docs", "/nothing"])
def test_a_request_for_another_host_is_told_which_setting_allows_it(start: Start, path: str) -> None:
    client = start(allowed_hosts="ner.example.org")
    answer = client.get(path, headers={"Host": "rebound.example:8000", "X-Request-Id": "find-me"})
    assert (answer.status_code, answer.json()["error_type"]) == (421, "HostRefused")
    assert "'rebound.example'" in answer.json()["error"] and "NER_ALLOWED_HOSTS" in answer.json()["error"]
    assert answer.headers["X-Request-Id"] == answer.json()["request_id"] == "find-me"
    for host in ("ner.example.org", "127.0.0.1:8000", "localhost"):
        assert client.get("/livez", headers={"Host": host}).status_code == 200


def test_the_name_to_listen_on_is_a_name_of_the_server(start: Start) -> None:
    assert start(host="box", allowed_hosts="").get("/livez", headers={"Host": "box:8000"}).status_code == 200
