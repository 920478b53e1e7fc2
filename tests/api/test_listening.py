"""Where the server listens, and the URL that it says."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest

from service.api.listening import bind, url_of
from service.errors import BadInput


def reached(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("host", "reaches"),
    [
        ("127.0.0.1", {"127.0.0.1"}),
        ("0.0.0.0", {"127.0.0.1"}),
        ("::1", {"::1"}),
        ("::", {"127.0.0.1", "::1"}),
    ],
)
def test_a_host_is_reached_by_its_families_and_by_the_url_that_is_said(host: str, reaches: set[str]) -> None:
    with ExitStack() as opened:
        (bound,) = [opened.enter_context(one) for one in bind(host, 0)]
        port = bound.getsockname()[1]
        assert not reached("127.0.0.1", port)  # not listening yet
        bound.listen()
        assert {address for address in ("127.0.0.1", "::1") if reached(address, port)} == reaches
        address, _, said = url_of(host, port).removeprefix("http://").rpartition(":")
        assert reached(address.strip("[]"), int(said))


def test_all_addresses_of_a_name_get_the_same_port() -> None:
    with ExitStack() as opened:
        ports = {opened.enter_context(one).getsockname()[1] for one in bind("localhost", 0)}
    assert len(ports) == 1


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("::", "http://[::1]:80"),
        ("fe80::2", "http://[fe80::2]:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("10.0.0.1", "http://10.0.0.1:80"),
        ("box", "http://box:80"),
    ],
)
def test_the_url_is_one_that_works(host: str, url: str) -> None:
    assert url_of(host, 80) == url


def test_a_port_in_use_is_told_with_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(BadInput, match="choose another NER_PORT"):
        bind("127.0.0.1", taken.getsockname()[1])
