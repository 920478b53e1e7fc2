"""The server as a process: start, work, SIGTERM, start again; and what it refuses to start with."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service import __main__ as command_line
from service.api.http_server import Server
from service.engine.engine import Engine
from service.policy.lock import StateLock
from tests.api.servers_ import PATIENCE_S, ServerProcess, wait_until
from tests.api.sockets_ import RawClient, head

API_KEY = "key-of-Zanzibarbara"
WRONG_KEY = "wrong-key-of-Zanzibarbara"
MARKER = "Zanzibarbara"
AS_CLIENT = {"Authorization": f"Bearer {API_KEY}"}
DRAIN_S = 0.5
IDLE_DRAIN_S = 1.5
SOON_S = 25.0  # far below TIMEOUT_S, and enough for a process to end on a busy machine
TIMEOUT_S = 100
SLOW = {"texts": ["Anna works at Acme Labs in Oslo."] * 400, "exit_policy": {"strategy": "full_depth"}}
ABANDONED = {**SLOW, "texts": ["Anna works at Acme Labs in Oslo. " * 4] * 1_000}  # would take ten times as long
KEY_HEADER = f"Authorization: Bearer {API_KEY}"
ONE_LINE = b'11\r\n{"text": "Anna"}\n\r\n'  # a chunk, after which more is awaited
POLICY = {"strategy": "budgeted", "layer": 2}


def open_client(url: str) -> httpx.Client:
    """A client of a server on this machine."""
    return httpx.Client(base_url=url, headers=AS_CLIENT, timeout=PATIENCE_S, trust_env=False)


def metric(client: httpx.Client, name: str) -> float:
    """The value of a series without labels."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return float(next(one.value for family in families for one in family.samples if one.name == name))


@dataclass(frozen=True, slots=True)
class Life:
    """What was seen of a server from its start to its end."""

    ready: dict[str, Any]
    draining: dict[str, Any]
    log: str
    exit_code: int
    seconds_to_end: float  # after the last answer
    generated_key: Path
    policy: dict[str, Any]
    history: list[Any]
    statuses: dict[str, int]  # of the calls in the ordinary course
    statuses_while_draining: dict[str, int]
    in_flight_was_open: bool  # when /readyz said 503
    in_flight: httpx.Response
    stream: list[dict[str, Any]]  # the answers to a stream that was open at SIGTERM
    sent_while_draining: httpx.Response
    clients_left: float
    told_to_nonsense: list[bytes]


@pytest.fixture(scope="module")
def environment(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of the server: steps of one sequence, so that a large request takes a while."""
    return {
        "NER_MODEL": str(model_folder),
        "NER_STATE_DIR": str(tmp_path_factory.mktemp("state")),
        "NER_API_KEY": API_KEY,
        "NER_THREADS": "1",
        "NER_TIMEOUT_MS": str(1_000 * TIMEOUT_S),
        "NER_DRAIN_S": str(DRAIN_S),
        "NER_MAX_STEP_TOKENS": "1",
    }


def call_in_every_way(client: httpx.Client) -> dict[str, int]:
    """Calls that carry the marker, well and badly; -> their statuses."""
    text, wrong = {"text": f"{MARKER} met {MARKER}."}, {"Authorization": f"Bearer {WRONG_KEY}"}
    as_json = {"Content-Type": "application/json"}
    large = json.dumps({"text": MARKER * 200_000})
    calls = {
        "answered": client.post("/ner", json=text),
        "no entity like it": client.post("/ner", json={**text, "labels": [MARKER]}),
        "wrong key": client.post("/ner", json=text, headers=wrong),
        "API key for a change": client.patch("/exit-policy", json={MARKER: 1}),
        "not JSON": client.post("/ner", content=f'{{"text": "{MARKER}', headers=as_json),
        "not sent as JSON": client.post("/ner", content=json.dumps(text)),
        "surrogate": client.post("/ner", content=f'{{"text": "{MARKER}\\ud800"}}', headers=as_json),
        "unknown field": client.post("/ner", json={**text, MARKER: MARKER}),
        "bad policy": client.post("/ner", json={**text, "exit_policy": {"measure": MARKER}}),
        "text too long": client.post("/ner", json={"text": MARKER * 10_000}),
        "body too large": client.post("/ner", content=large, headers=as_json),
        "body too large, chunked": client.post("/ner", content=iter([large.encode()]), headers=as_json),
        "unknown path": client.get(f"/{MARKER}?key={API_KEY}"),
        "unfit id": client.post("/ner", json=text, headers={"X-Request-Id": f"{MARKER} {API_KEY}"}),
    }
    return {name: response.status_code for name, response in calls.items()}


def leave_early(client: httpx.Client) -> float:
    """Send a very large request and close the connection; -> how many clients are then counted as having left."""
    address = urlsplit(str(client.base_url))
    body = json.dumps(ABANDONED).encode()
    head = f"POST /ner HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {API_KEY}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        wait_until(lambda: metric(client, "ner_requests_running") == 1)
    wait_until(lambda: metric(client, "ner_requests_running") == 0)
    return metric(client, "ner_requests_client_left_total")


def say_nonsense(client: httpx.Client) -> list[bytes]:
    """Send what is no HTTP, a head that is too large, and one that wishes for another protocol; -> the first words."""
    address, told = urlsplit(str(client.base_url)), []
    secret = f"X: {MARKER} {API_KEY}\r\n"
    for sent in (
        f"{secret}\r\n\r\n",
        f"GET /{MARKER} HTTP/1.1\r\n{secret * 10_000}",
        f"GET /{MARKER} HTTP/1.1\r\nHost: x\r\n{secret}Connection: Upgrade\r\nUpgrade: {MARKER}\r\n\r\n",
    ):
        with socket.create_connection((address.hostname, address.port)) as connection:
            connection.sendall(sent.encode())
            told.append(connection.recv(12))
    return told


@pytest.fixture(scope="module")
def life(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    """Start a server, use it, change its policy, and end it with a request in flight."""
    server = ServerProcess(tmp_path_factory.mktemp("first"), **environment)
    try:
        url = server.wait_ready()
        with open_client(url) as client, RawClient(url) as stream, ThreadPoolExecutor() as pool:
            key_file = Path(environment["NER_STATE_DIR"]) / "admin_key"
            statuses = call_in_every_way(client)
            told = say_nonsense(client)
            clients_left = leave_early(client)
            as_admin = {"Authorization": f"Bearer {key_file.read_text(encoding='utf-8').strip()}"}
            client.patch("/exit-policy", json=POLICY, headers=as_admin).raise_for_status()
            policy, history = client.get("/exit-policy").json(), client.get("/exit-policy/history").json()

            stream.send(head("POST", "/ner/stream", [KEY_HEADER, "Transfer-Encoding: chunked"]), ONE_LINE)
            stream.read_head()
            lines = [json.loads(stream.read_chunk())]

            in_flight = pool.submit(client.post, "/ner", json=SLOW)
            wait_until(lambda: metric(client, "ner_requests_running") == 1)
            server.terminate()
            wait_until(lambda: server.event("draining"))
            lines.append(json.loads(stream.read_chunk()))
            late = pool.submit(client.post, "/ner", json={"text": MARKER})
            while_draining = {path: client.get(path).status_code for path in ("/readyz", "/health", "/livez", "/info")}
            was_open = not in_flight.done()
            answers = in_flight.result(), late.result()
            answered = time.monotonic()
            exit_code = server.wait_end()
        yield Life(
            ready=server.event("ready") or {},
            draining=server.event("draining") or {},
            log=server.log,
            exit_code=exit_code,
            seconds_to_end=time.monotonic() - answered,
            generated_key=key_file,
            policy=policy,
            history=history,
            statuses=statuses,
            statuses_while_draining=while_draining,
            in_flight_was_open=was_open,
            in_flight=answers[0],
            stream=lines,
            sent_while_draining=answers[1],
            clients_left=clients_left,
            told_to_nonsense=told,
        )
    finally:
        server.kill()


def is_answering(client: httpx.Client) -> bool:
    """Whether anybody is there."""
    try:
        return client.get("/livez").status_code == 200
    except httpx.TransportError:
        return False


@dataclass(frozen=True, slots=True)
class Starts:
    """A second start on the state that the first server left, behind a prefix; and one that must fail."""

    policy: dict[str, Any]
    history: list[Any]
    docs: str
    schema: dict[str, Any]
    exit_code: int
    seconds_answering: float  # after SIGTERM
    seconds_to_end: float
    with_workers: tuple[int, str]


@pytest.fixture(scope="module")
def starts(life: Life, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starts]:
    """Start again, as if behind a proxy that strips a prefix, and beside it with several workers."""
    assert life.exit_code == 0
    folder = tmp_path_factory.mktemp("second")
    changed = {"NER_ROOT_PATH": "/prefix", "NER_DRAIN_S": str(IDLE_DRAIN_S)}
    server = ServerProcess(folder, **{**environment, **changed})
    refused = ServerProcess(folder, **environment, WEB_CONCURRENCY="2")
    try:
        with open_client(server.wait_ready()) as client:
            policy, history = client.get("/exit-policy").json(), client.get("/exit-policy/history").json()
            docs, schema = client.get("/docs").text, client.get("/openapi.json").json()
            terminated = time.monotonic()
            server.terminate()
            wait_until(lambda: not is_answering(client))
            seconds_answering = time.monotonic() - terminated
        exit_code = server.wait_end()
        seconds_to_end = time.monotonic() - terminated
        with_workers = refused.wait_end(), refused.log
        yield Starts(policy, history, docs, schema, exit_code, seconds_answering, seconds_to_end, with_workers)
    finally:
        server.kill()
        refused.kill()


def test_a_server_that_is_ready_says_where_what_and_after_how_long(life: Life) -> None:
    assert life.ready["url"].startswith("http://127.0.0.1:")
    assert life.ready["model"] == "tiny@1"
    assert 0 < life.ready["seconds"] < PATIENCE_S
    assert life.ready["executor"] == "eager" and life.ready["instructions"]
    assert life.ready["given_up"].startswith("int8 kernels, ")
    assert (life.ready["level"], life.ready["logger"]) == ("info", "service")


def test_every_log_line_is_one_json_object(life: Life) -> None:
    for line in life.log.splitlines():
        assert json.loads(line).keys() >= {"time", "level", "logger", "event"}


def test_calls_get_the_statuses_of_the_wire_over_a_real_connection(life: Life) -> None:
    assert life.statuses == {
        "answered": 200,
        "no entity like it": 422,
        "wrong key": 401,
        "API key for a change": 403,
        "not JSON": 400,
        "not sent as JSON": 422,
        "surrogate": 422,
        "unknown field": 422,
        "bad policy": 422,
        "text too long": 413,
        "body too large": 413,
        "body too large, chunked": 413,
        "unknown path": 404,
        "unfit id": 200,
    }


def test_no_text_and_no_key_is_ever_logged(life: Life) -> None:
    assert life.told_to_nonsense == [b"HTTP/1.1 400", b"HTTP/1.1 431", b"HTTP/1.1 404"]
    assert MARKER not in life.log
    assert life.generated_key.read_text(encoding="utf-8").strip() not in life.log


def test_the_generated_key_is_for_its_owner_alone_and_its_path_is_logged(life: Life) -> None:
    assert stat.S_IMODE(life.generated_key.stat().st_mode) == 0o600
    assert str(life.generated_key) in life.log


def test_a_client_that_closes_its_connection_is_dropped_and_counted(life: Life) -> None:
    assert life.clients_left == 1


def test_sigterm_ends_readiness_at_once_and_nothing_else(life: Life) -> None:
    assert life.statuses_while_draining == {"/readyz": 503, "/health": 503, "/livez": 200, "/info": 200}
    assert (life.draining["signal"], life.draining["seconds"]) == ("SIGTERM", DRAIN_S)


def test_a_request_in_flight_at_sigterm_is_answered(life: Life) -> None:
    assert life.in_flight_was_open
    assert life.in_flight.status_code == 200
    assert len(life.in_flight.json()["results"]) == len(SLOW["texts"])


def test_a_stream_that_is_open_at_sigterm_ends_with_a_word(life: Life) -> None:
    answered, last = life.stream
    assert answered["line"] == 1 and "entities" in answered
    assert last["error_type"] == "NotReady" and "line" not in last


def test_a_request_that_comes_while_draining_is_answered(life: Life) -> None:
    assert life.sent_while_draining.status_code == 200
    assert life.sent_while_draining.json()["exit_layer"] == POLICY["layer"]


def test_a_drained_server_ends_well_and_soon(life: Life) -> None:
    assert life.exit_code == 0
    assert life.seconds_to_end < DRAIN_S + SOON_S


def test_policy_version_and_history_survive_a_restart(life: Life, starts: Starts) -> None:
    shadow = {"runs": 0, "disagreements": 0, "disagreement_rate": None, "disagreement_interval": None}
    observed = {"average_exit_layer": None, "sequences": 0, "since": life.policy["updated_at"], "shadow": shadow}
    assert starts.policy == {**life.policy, "observed": observed}
    assert starts.policy.items() >= {**POLICY, "version": 2}.items()
    assert starts.history == life.history


def test_behind_a_proxy_that_strips_a_prefix_the_docs_know_it(starts: Starts) -> None:
    assert "url: '/prefix/openapi.json'" in starts.docs
    assert starts.schema["servers"] == [{"url": "/prefix"}]


def test_an_idle_server_answers_until_it_has_drained_and_ends(starts: Starts) -> None:
    assert starts.exit_code == 0
    assert IDLE_DRAIN_S <= starts.seconds_answering <= starts.seconds_to_end < IDLE_DRAIN_S + SOON_S


def test_a_second_ctrl_c_ends_at_once_whatever_is_under_way(model_folder: Path, tmp_path: Path) -> None:
    patient = {"NER_TIMEOUT_MS": "600000", "NER_CLIENT_TIMEOUT_S": "600", "NER_DRAIN_S": "600"}
    state = str(tmp_path / "state")
    server = ServerProcess(tmp_path, NER_MODEL=str(model_folder), NER_STATE_DIR=state, NER_THREADS="1", **patient)
    try:
        at = urlsplit(server.wait_ready())
        with socket.create_connection((at.hostname, at.port)) as client:
            head = "POST /ner HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
            client.sendall(head.encode() + b'{"text": "half')
            server.process.send_signal(signal.SIGINT)
            wait_until(lambda: server.event("draining"))
            server.process.send_signal(signal.SIGINT)
            assert server.wait_end() == 0
    finally:
        server.kill()
    assert server.event("ended at once") and "Traceback" not in server.log


def test_several_workers_are_refused_in_one_line(starts: Starts) -> None:
    code, log = starts.with_workers
    assert code == 2
    (line,) = log.splitlines()
    assert line.startswith("error: WEB_CONCURRENCY is '2'")
    assert "set NER_PROCESSES" in line


@pytest.fixture
def serve_here(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run `serve` in this process, where it is about to fail; -> the exit code."""
    good = {"NER_MODEL": "tiny", "NER_MODEL_STORE": str(model_folder.parent.parent), "NER_STATE_DIR": str(tmp_path)}
    monkeypatch.setattr("service.api.server.start_logging", lambda *_: None)  # the test run's own logging stays

    def serve_here(**environment: str) -> int:
        for name, value in {**good, "NER_DEVICE": "cpu", "NER_THREADS": "1", **environment}.items():
            monkeypatch.setenv(name, value)
        return command_line.main(["serve"])

    return serve_here


@pytest.mark.parametrize(
    ("environment_", "said"),
    [
        ({"NER_PORT": "abc"}, ["NER_PORT='abc'"]),
        ({"NER_PORT": "65536", "NER_DRAIN_S": "soon"}, ["NER_PORT='65536'", "NER_DRAIN_S='soon'"]),
        ({"NER_DEVICE": "tpu"}, ["NER_DEVICE='tpu'", "'cuda'"]),
        ({"NER_QUEUE_TOKENS": "0"}, ["NER_QUEUE_TOKENS='0'"]),
        ({"NER_MODEL": "nobody"}, ["'nobody'", "tiny@1"]),
        ({"NER_MODEL": "tiny@2"}, ["'tiny@2'", "tiny@1"]),
        ({"NER_STATE_DIR": "/dev/null/state"}, ["NER_STATE_DIR='/dev/null/state'"]),
        ({"NER_MODLE": "tiny"}, ["NER_MODLE is no setting; the nearest is NER_MODEL;"]),
        ({"NER_Q": "1", "ner_prot": "1"}, ["NER_Q is no setting", "ner_prot is no setting; the nearest is NER_PORT"]),
        ({"NER_HOST": "nobody.invalid"}, ["NER_HOST='nobody.invalid' is no address"]),
        ({"NER_HOST": "192.0.2.1"}, ["cannot listen on NER_HOST=192.0.2.1", "choose a NER_HOST"]),
        ({"WEB_CONCURRENCY": "many"}, ["WEB_CONCURRENCY is 'many'"]),
    ],
)
def test_a_start_that_cannot_be_is_refused_in_one_line_that_names_the_mistake(
    serve_here: Callable[..., int], environment_: dict[str, str], said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve_here(**environment_) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert all(part in line for part in said)


def test_a_port_that_is_taken_is_told_in_one_line_before_the_model_loads(
    serve_here: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert serve_here(NER_PORT=port, NER_MODEL="nobody") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: cannot listen on NER_HOST=127.0.0.1") and f"NER_PORT={port}" in line


def test_a_port_that_is_taken_while_the_model_loads_is_told_likewise(
    serve_here: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Taken(Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            with socket.socket() as other:
                other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                other.bind((sockets or [])[0].getsockname())
                other.listen()
                await super().startup(sockets)

    monkeypatch.setattr("service.api.server.Server", Taken)
    assert serve_here(NER_PORT="0") == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: cannot listen on NER_HOST=127.0.0.1")


def test_a_second_server_on_one_state_folder_is_refused_in_one_line(
    serve_here: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lock = StateLock(tmp_path)
    try:
        assert serve_here(NER_PORT="0", NER_MODEL="nobody") == 2
    finally:
        lock.release()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: NER_STATE_DIR='{tmp_path}' is in use by process {os.getpid()}")


def test_a_step_that_hangs_at_the_end_ends_the_process_with_an_error(
    serve_here: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    never = threading.Event()
    monkeypatch.setattr(Engine, "_run_steps", lambda _: never.wait())
    monkeypatch.setattr(Engine.close, "__defaults__", (0.1,))
    monkeypatch.setattr(Server, "main_loop", lambda _: asyncio.sleep(0))  # as after SIGTERM and the time to drain
    assert serve_here(NER_PORT="0") == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: the engine failed too often, or hung")
    assert "the engine did not end within 0.1 s" in caplog.text
    never.set()


def test_an_engine_that_gave_up_ends_the_process_with_an_error(
    serve_here: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Engine, "_run_steps", lambda _: 1 / 0)
    assert serve_here(NER_PORT="0", NER_DRAIN_S="0") == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: the engine failed too often")
