"""Several serving processes behind one port, as an operator meets them: real processes, real signals."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from service.processes.serving import share_of
from service.settings import Settings
from tests.api.servers_ import ADMIN_KEY, AS_ADMIN, PATIENCE_S, ServerProcess, wait_until
from tests.models_ import save_tiny_model

COUNT = 3
TEXT = "Anna Smith lives in Rome."


class Running:
    """A server of COUNT processes."""

    def __init__(self, folder: Path, model: Path, **environment: str) -> None:
        settings = {"NER_MODEL": str(model), "NER_STATE_DIR": str(folder / "state"), "NER_ADMIN_KEY": ADMIN_KEY}
        settings |= {"NER_PROCESSES": str(COUNT), "NER_DRAIN_S": "0", **environment}
        self.server = ServerProcess(folder, **settings)
        self.url = self.server.wait_ready()

    @property
    def serving(self) -> list[int]:
        """The ids of the serving processes; the one that gathers has been started before them."""
        return children_of(self.server.process.pid)[1:]

    def get(self, path: str) -> httpx.Response:
        """Over a connection of its own, which any of the processes may get."""
        with httpx.Client(base_url=self.url, headers=AS_ADMIN, timeout=30, trust_env=False) as client:
            return client.get(path)

    def ner(self, text: str = TEXT) -> httpx.Response:
        """Likewise."""
        with httpx.Client(base_url=self.url, headers=AS_ADMIN, timeout=30, trust_env=False) as client:
            return client.post("/ner", json={"text": text})

    def stream(self, texts: Seq[str]) -> list[dict[str, Any]]:
        """Likewise."""
        with httpx.Client(base_url=self.url, headers=AS_ADMIN, timeout=30, trust_env=False) as client:
            body = "".join(json.dumps({"id": text, "text": text}) + "\n" for text in texts)
            answer = client.post("/ner/stream", content=body, headers={"Content-Type": "application/x-ndjson"})
            assert answer.status_code == 200
            return [json.loads(line) for line in answer.text.splitlines()]

    def patch(self, **changes: object) -> httpx.Response:
        """Likewise."""
        with httpx.Client(base_url=self.url, headers=AS_ADMIN, timeout=30, trust_env=False) as client:
            return client.patch("/exit-policy", json=changes)

    def sample(self, name: str) -> float:
        """Of /metrics; the sum over all labels."""
        found = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", self.get("/metrics").text, re.MULTILINE)
        assert found, name
        return sum(map(float, found))


def children_of(pid: int) -> list[int]:
    """In the order in which they were started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_gone(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("store") / "tiny" / "1")


@pytest.fixture
def running(tmp_path: Path, model: Path) -> Iterator[Running]:
    started = Running(tmp_path, model)
    try:
        yield started
    finally:
        for pid in children_of(started.server.process.pid) if started.server.process.poll() is None else ():
            os.kill(pid, signal.SIGKILL)
        started.server.kill()


def test_they_answer_on_one_port_and_count_together(running: Running) -> None:
    answers = [running.ner() for _ in range(24)]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content.partition(b'"timing_ms"')[0] for answer in answers}) == 1
    assert running.sample("ner_sequences_total") == 24
    assert running.sample("ner_request_inference_seconds_count") == 24
    assert running.sample("ner_processes") == COUNT
    assert running.sample("ner_queue_capacity") == pytest.approx(4_096, abs=COUNT)
    ready = running.server.event("ready") or {}
    assert ready["processes"] == COUNT
    told = running.get("/info").json()
    assert [ready[name] for name in ("executor", "instructions", "given_up")] == [
        told[name] for name in ("executor", "instructions", "given_up")
    ]


def test_streams_are_in_order_whichever_of_them_has_a_stream_and_are_counted_together(running: Running) -> None:
    texts = [f"Anna Smith number {number} lives in Rome." for number in range(60)]
    streams = [texts[first::5] for first in range(5)]
    with ThreadPoolExecutor(len(streams)) as pool:
        answered = list(pool.map(running.stream, streams))
    for sent, lines in zip(streams, answered, strict=True):
        assert [line["line"] for line in lines] == list(range(1, len(sent) + 1))
        assert [line["id"] for line in lines] == list(sent)
    assert running.sample("ner_stream_lines_total") == len(texts)
    assert running.sample("ner_streams") == 0


def test_a_change_is_in_force_in_all_within_a_second_and_versions_never_go_back(running: Running) -> None:
    for version in range(2, 7):
        changed = running.patch(strategy="budgeted", layer=1 + version % 4)
        assert changed.json()["version"] == version
        until = time.monotonic() + 1.0
        seen = [running.get("/exit-policy").json()["version"] for _ in range(10)]
        assert set(seen) <= {version - 1, version}
        time.sleep(max(0.0, until - time.monotonic()))
        assert {running.get("/exit-policy").json()["version"] for _ in range(10)} == {version}
    assert {tuple(one["version"] for one in running.get("/exit-policy/history").json()) for _ in range(9)} == {
        tuple(range(6, 0, -1))
    }
    assert running.sample("ner_exit_policy_changes_total") == 5


def test_one_that_dies_is_replaced_and_what_it_counted_stays(running: Running) -> None:
    for _ in range(12):
        running.ner()
    assert running.sample("ner_sequences_total") == 12
    time.sleep(1.0)  # that it has told what it counted, though nobody asked
    victim = running.serving[0]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: running.sample("ner_processes_replaced_total") == 1)
    assert victim not in running.serving
    assert running.sample("ner_sequences_total") == 12
    assert {running.ner().status_code for _ in range(12)} == {200}
    assert running.sample("ner_sequences_total") == 24
    assert running.sample("ner_processes") == COUNT


def test_the_one_that_answers_for_all_is_replaced_too(running: Running) -> None:
    gatherer = children_of(running.server.process.pid)[0]
    os.kill(gatherer, signal.SIGKILL)
    wait_until(lambda: is_gone(gatherer))
    assert running.ner().status_code == 200
    wait_until(lambda: "ner_processes" in running.get("/metrics").text and running.sample("ner_processes") == COUNT)


def test_sigterm_ends_them_all_after_what_is_under_way(running: Running) -> None:
    pids = children_of(running.server.process.pid)
    running.server.terminate()
    assert running.server.wait_end() == 0
    assert all(map(is_gone, pids))
    assert '"error"' not in running.server.log


def test_they_end_with_their_supervisor_however_it_ends(running: Running) -> None:
    pids = children_of(running.server.process.pid)
    running.server.process.kill()
    running.server.process.wait(PATIENCE_S)
    wait_until(lambda: all(map(is_gone, pids)))


def test_processes_that_cannot_start_end_the_server_with_the_reason(tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    settings = {"NER_MODEL": str(model), "NER_STATE_DIR": str(folder), "NER_ADMIN_KEY": ADMIN_KEY, "NER_PROCESSES": "2"}
    server = ServerProcess(tmp_path, **settings, NER_POLICY_STORE="redis://127.0.0.1:1")
    assert server.wait_end() != 0
    assert "127.0.0.1:1" in server.log


def test_threads_and_limits_are_divided_and_never_nothing() -> None:
    share = share_of(Settings(processes=3, threads=8, queue_texts=10, cache_bytes=0))
    assert (share.threads, share.queue_texts, share.cache_bytes) == (2, 4, 0)
    assert share_of(Settings(processes=4, threads=2)).threads == 1
