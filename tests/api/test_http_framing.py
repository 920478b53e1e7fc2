"""What reaches the port, byte by byte: heads without end, bodies that lie, two requests in one, no HTTP at all."""

from __future__ import annotations

import json
import random
import re
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.api.connections import MAX_HEAD_BYTES, MAX_HEADERS, MAX_PIPELINED
from service.api.state import Service
from tests.api.servers_ import ADMIN_KEY, listening, tiny_service, value, wait_until
from tests.api.sockets_ import RawClient, ask, head, post

API_KEY = "the-api-key"
AUTHORIZATION = f"Authorization: Bearer {API_KEY}"
BODY = b'{"text": "Anna works at Acme Labs in Oslo."}'
GOOD = post(BODY, [AUTHORIZATION])
CHUNKED = ["Content-Type: application/json", "Transfer-Encoding: chunked", AUTHORIZATION]
LARGE = b"x" * 20_000_000
NOT_WITHOUT_DOUBT = {
    "two lengths": post(BODY, ["Content-Length: 5"]),
    "the same length twice": post(BODY, [f"Content-Length: {len(BODY)}"]),
    "a length and chunks": post(BODY, ["Transfer-Encoding: chunked"]),
    "a length of +5": head("POST", "/ner", ["Content-Length: +5"]) + BODY,
    "a negative length": head("POST", "/ner", ["Content-Length: -1"]) + BODY,
    "a length that overflows": head("POST", "/ner", ["Content-Length: 99999999999999999999999"]) + BODY,
    "a length in hexadecimal": head("POST", "/ner", ["Content-Length: 0x10"]) + BODY,
    "a blank before the colon": head("POST", "/ner", ["Content-Length : 5"]) + BODY,
    "an encoding nobody knows": head("POST", "/ner", ["Transfer-Encoding: xchunked"]) + BODY,
    "an encoding after chunked": head("POST", "/ner", ["Transfer-Encoding: chunked, identity"]) + BODY,
    "chunked twice": head("POST", "/ner", ["Transfer-Encoding: chunked, chunked"]) + BODY,
    "a chunk that overflows": head("POST", "/ner", CHUNKED) + b"ffffffffffffffffff\r\n" + BODY,
    "a negative chunk": head("POST", "/ner", CHUNKED) + b"-5\r\n" + BODY,
    "a chunk longer than it says": head("POST", "/ner", CHUNKED) + b"5\r\n" + BODY,
    "a chunk's end without CR": head("POST", "/ner", CHUNKED) + b"5\n" + BODY,
    "line ends without CR": b"GET /livez HTTP/1.1\nHost: x\n\n",
    "a folded header": b"GET /livez HTTP/1.1\r\nHost: x\r\n folded: a\r\n\r\n",
    "a NUL in a header": head("GET", "/livez", ["X: a\0b"]),
    "a header without a colon": head("GET", "/livez", ["X"]),
    "a path beyond ASCII": head("GET", "/livez\xff"),
    "a path without a slash": head("GET", "livez"),
    "a tunnel": head("CONNECT", "a:443"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no host": b"GET /livez HTTP/1.1\r\n\r\n",
    "two hosts": head("GET", "/livez", ["Host: y"]),
    "the same host twice": head("GET", "/livez", ["Host: x"]),
    "an empty host": b"GET /livez HTTP/1.1\r\nHost:\r\n\r\n",
    "a host that is none": b"GET /livez HTTP/1.1\r\nHost: x/y@z\r\n\r\n",
    "a host in the target and another in the head": head("GET", "http://y/livez"),
    "a body that is packed, in chunks": head("POST", "/ner", ["Transfer-Encoding: gzip, chunked"]) + BODY,
    "a body that is packed, in chunks, in two headers": head(
        "POST", "/ner", ["Transfer-Encoding: gzip", "Transfer-Encoding: chunked"]
    )
    + BODY,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
    "a method nobody knows": head("GETT", "/livez"),
}
HEADS_TOO_LARGE = {
    "a header of a megabyte": head("GET", "/livez", [f"X: {'a' * 1_000_000}"]),
    "one header too many": head("GET", "/livez", ["X: a"] * MAX_HEADERS),  # beside Host
    "ten thousand headers": head("GET", "/livez", [f"X-{number}: a" for number in range(10_000)]),
    "a URL of 100 kB": head("GET", f"/livez?{'a' * 100_000}"),
    "a name of 100 kB": head("GET", "/livez", [f"{'a' * 100_000}: a"]),
    "line ends without a request": b"\r\n" * MAX_HEAD_BYTES,
}
ENDLESS = {
    "trailers": b"0\r\n" + b"X: a\r\n" * 200_000,
    "one trailer": b"0\r\nX: " + b"a" * 1_000_000,
    "an extension of a chunk": b"1;" + b"a" * 1_000_000,
}


@pytest.fixture(scope="module")
def service(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Service:
    """Of the server that all this is sent to."""
    return tiny_service(model_folder, tmp_path_factory.mktemp("state"), api_key=API_KEY, client_timeout_s=20)


@pytest.fixture(scope="module")
def url(service: Service) -> Iterator[str]:
    """Of the server; it is well when all is over."""
    with listening(service) as url:
        yield url
        assert ask(url, GOOD).status == ask(url, head("GET", "/readyz")).status == 200
        wait_until(lambda: value(service, "ner_connections") == 0)


@pytest.mark.parametrize("sent", NOT_WITHOUT_DOUBT.values(), ids=NOT_WITHOUT_DOUBT)
def test_what_could_be_read_in_two_ways_or_is_no_http_is_refused_and_ends_the_connection(
    url: str, service: Service, sent: bytes
) -> None:
    before = value(service, "ner_connections_refused_total", reason="malformed")
    with RawClient(url) as client:
        client.send(sent, GOOD)
        answer = client.read_answer()
        assert client.is_ended()
    assert (answer.status, answer.json()["error_type"], answer.headers["connection"]) == (400, "NotHTTP", "close")
    assert answer.headers["x-request-id"] == answer.json()["request_id"]
    assert {"date", "content-type"} <= answer.headers.keys()
    assert value(service, "ner_connections_refused_total", reason="malformed") == before + 1


@pytest.mark.parametrize("size", [1_000, 1_000_000])
@pytest.mark.parametrize("sent", HEADS_TOO_LARGE.values(), ids=HEADS_TOO_LARGE)
def test_a_head_over_its_limit_is_refused_however_it_comes(url: str, sent: bytes, size: int) -> None:
    with RawClient(url) as client:
        client.send(*(sent[start : start + size] for start in range(0, len(sent), size)))
        answer = client.read_answer()
        assert client.is_ended()
    assert (answer.status, answer.json()["error_type"]) == (431, "HeadTooLarge")


def test_a_head_of_nearly_the_limit_is_read(url: str) -> None:
    assert ask(url, head("GET", "/livez", [f"X: {'a' * (MAX_HEAD_BYTES - 100)}"])).status == 200
    assert ask(url, head("GET", "/livez", ["X: a"] * (MAX_HEADERS - 2))).status == 200


@pytest.mark.parametrize("piece", [b"X: a\r\n", b"a"], ids=["headers", "one header"])
def test_a_head_without_end_is_cut_off(url: str, piece: bytes) -> None:
    with RawClient(url) as client:
        client.send(b"GET /livez HTTP/1.1\r\nX: ", *[piece * 1_000] * 500)
        assert client.read_answer().status == 431


@pytest.mark.parametrize("endless", ENDLESS.values(), ids=ENDLESS)
def test_what_never_becomes_a_body_is_cut_off(url: str, endless: bytes) -> None:
    assert ask(url, head("POST", "/ner", CHUNKED), endless).status == 431


def test_a_length_may_have_thousands_of_leading_zeros(url: str) -> None:
    zeros = "0" * 5_000
    assert ask(url, head("GET", "/readyz", [f"Content-Length: {zeros}"])).status == 200
    headers = ["Content-Type: application/json", AUTHORIZATION, f"Content-Length: {zeros}{len(BODY)}"]
    assert ask(url, head("POST", "/ner", headers) + BODY).status == 200


def test_a_trailer_is_no_header(url: str) -> None:
    body, trailer = b'{"tau": -0.5}', f"Authorization: Bearer {ADMIN_KEY}\r\n\r\n".encode()
    chunks = b"%x\r\n%s\r\n0\r\n" % (len(body), body)
    start = head("PATCH", "/exit-policy", ["Content-Type: application/json", "Transfer-Encoding: chunked"])
    assert ask(url, start + chunks + trailer).status == ask(url, start, chunks, trailer).status == 401


def test_a_body_in_chunks_of_one_byte_is_read(url: str) -> None:
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in BODY)
    assert ask(url, head("POST", "/ner", CHUNKED), chunks, b"0\r\n\r\n").status == 200


def test_a_body_longer_than_its_length_is_another_request(url: str) -> None:
    with RawClient(url) as client:
        client.send(GOOD + b"and more\r\n\r\n")
        assert client.read_answer().status == 200
        assert client.is_ended()


def test_pipelined_requests_are_answered_in_order(url: str) -> None:
    texts = ["Anna", "Ben met Carla", "", "Rome."]
    with RawClient(url) as client:
        client.send(b"".join(post(json.dumps({"text": text}).encode(), [AUTHORIZATION]) for text in texts))
        answers = [client.read_answer().json() for _ in texts]
    assert [answer["sequences"][-1]["end"] if answer["sequences"] else 0 for answer in answers] == [4, 13, 0, 5]


def test_a_flood_of_pipelined_requests_is_cut_off(url: str, service: Service) -> None:
    with RawClient(url) as client:
        client.send(GOOD + head("GET", "/livez") * 10 * MAX_PIPELINED)
        assert client.is_ended()
    wait_until(lambda: value(service, "ner_requests_waiting") == value(service, "ner_requests_running") == 0)


def test_the_older_versions_of_http_are_answered_and_the_connection_ends(url: str) -> None:
    for line in (b"GET /livez HTTP/1.0\r\n\r\n", b"GET /livez HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"):
        with RawClient(url) as client:
            client.send(line)
            assert client.read_answer().status == 200
            assert client.is_ended()


def test_a_client_that_waits_for_leave_to_send_its_body_gets_it(url: str) -> None:
    with RawClient(url) as client:
        client.send(GOOD.removesuffix(BODY).replace(b"Host: x", b"Host: x\r\nExpect: 100-continue"))
        assert client.read_answer().status == 100
        client.send(BODY)
        assert client.read_answer().status == 200


@pytest.mark.parametrize(
    ("status", "method", "path", "headers"),
    [
        (401, "POST", "/ner", ["Content-Length: 9"]),
        (401, "POST", "/ner", ["Transfer-Encoding: chunked"]),
        (403, "PATCH", "/exit-policy", ["Content-Length: 9", AUTHORIZATION]),
        (404, "POST", "/nothing", ["Content-Length: 9"]),
        (405, "POST", "/livez", ["Content-Length: 9"]),
        (413, "POST", "/ner", ["Content-Length: 2000001", AUTHORIZATION]),
    ],
)
def test_what_the_head_alone_rules_out_is_answered_before_a_body_is_asked_for(
    url: str, status: int, method: str, path: str, headers: list[str]
) -> None:
    answer = ask(url, head(method, path, [*headers, "Expect: 100-continue"]))
    assert (answer.status, answer.headers["connection"]) == (status, "close")


@pytest.mark.parametrize("headers", [[AUTHORIZATION], []], ids=["too large", "without a key"])
def test_a_client_that_sends_a_large_body_whole_before_it_reads_sees_why_it_was_refused(
    url: str, headers: list[str]
) -> None:
    assert ask(url, post(LARGE, headers)).status == (413 if headers else 401)


@pytest.mark.parametrize("wish", ["h2c", "websocket", "TLS/1.0"])
def test_a_wish_for_another_protocol_is_passed_over_and_the_request_answered(url: str, wish: str) -> None:
    sent = post(BODY, [AUTHORIZATION, "Connection: Upgrade, HTTP2-Settings", f"Upgrade: {wish}", "HTTP2-Settings: AAM"])
    for pieces in ([sent], [sent.removesuffix(BODY), BODY], [sent[:50], sent[50:]], [sent + GOOD]):
        answer = ask(url, *pieces)
        assert answer.status == 200
        assert answer.json()["sequences"][0]["end"] == 32


@pytest.mark.parametrize("connection", ["close, Upgrade", "Upgrade, close", "Upgrade"])
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_a_wish_for_another_protocol_on_the_last_request_is_passed_over_too(
    url: str, connection: str, version: bytes
) -> None:
    sent = post(BODY, [AUTHORIZATION, f"Connection: {connection}", "Upgrade: h2c"]).replace(b"/1.1", b"/" + version)
    for pieces in ([sent], [sent.removesuffix(BODY), BODY], [sent[:50], sent[50:]]):
        with RawClient(url) as client:
            client.send(*pieces)
            assert client.read_answer().status == 200
            assert (version == b"1.1" and connection == "Upgrade") or client.is_ended()


def test_a_whole_url_as_target_is_answered_where_its_host_is_the_head_s(url: str) -> None:
    assert ask(url, head("GET", "http://x/livez")).status == 200


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/health", "/metrics", "/", "/docs", "/openapi.json", "/info"])
def test_head_is_answered_as_get_is_without_a_body(url: str, path: str) -> None:
    with RawClient(url) as client:
        client.send(head("GET", path, [AUTHORIZATION]))
        expected = client.read_answer()
        client.send(head("HEAD", path, [AUTHORIZATION]) + head("GET", "/livez"))
        status, headers = client.read_head()
        assert client.read_answer().json() == {"status": "alive"}  # so there was no body between the two
    assert (status, headers.keys()) == (expected.status, expected.headers.keys())
    assert path in ("/metrics", "/info") or headers["content-length"] == expected.headers["content-length"]


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/livez", "GET, HEAD, OPTIONS"),
        ("/ner", "OPTIONS, POST"),
        ("/", "GET, HEAD, OPTIONS, POST"),
        ("/exit-policy", "GET, HEAD, OPTIONS, PATCH"),
        ("*", "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"),
    ],
)
def test_options_says_which_methods_there_are(url: str, path: str, methods: str) -> None:
    answer = ask(url, head("OPTIONS", path))
    assert (answer.status, answer.headers["allow"], answer.body) == (204, methods, b"")


def test_options_and_head_of_what_is_not_there_are_not_found(url: str) -> None:
    assert ask(url, head("OPTIONS", "/nothing")).status == 404
    with RawClient(url) as client:
        client.send(head("HEAD", "/nothing"))
        assert client.read_head()[0] == 404


def test_a_redirect_repeats_nothing_that_the_client_said_of_the_host(url: str) -> None:
    answer = ask(url, head("GET", "/livez/?a=b"))
    assert (answer.status, answer.headers["location"]) == (307, "/livez?a=b")


def test_a_packed_body_is_refused_unread_with_what_to_do(url: str) -> None:
    answer = ask(url, head("POST", "/ner", ["Content-Length: 1000000", "Content-Encoding: gzip", AUTHORIZATION]))
    assert (answer.status, answer.json()["error_type"]) == (415, "EncodingRefused")
    assert "gzip" in answer.json()["error"] and answer.headers["accept-encoding"] == "identity"
    assert ask(url, post(BODY, ["Content-Encoding: gzip"])).status == 401
    assert ask(url, post(BODY, ["Content-Encoding: identity", AUTHORIZATION])).status == 200


def test_any_garbage_is_answered_or_cut_off_and_harms_nobody_else(url: str) -> None:
    generator, statuses = random.Random(0), Counter[bytes]()
    for _ in range(200):
        sent = bytearray(GOOD)
        for _ in range(generator.randrange(1, 20)):
            position = generator.randrange(len(sent))
            sent[position : position + generator.randrange(3)] = generator.randbytes(generator.randrange(3))
        with RawClient(url) as client:
            client.send(bytes(sent) if generator.random() < 0.8 else generator.randbytes(generator.randrange(1_000)))
            client.socket.shutdown(socket.SHUT_WR)
            statuses.update(re.findall(rb"HTTP/1.1 (\d+)", client.read_rest()))
    assert statuses.keys() <= {b"400", b"401", b"404", b"405", b"421", b"422", b"200"}
    assert statuses[b"400"] > 50
