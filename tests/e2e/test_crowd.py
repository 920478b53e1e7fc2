"""Ten thousand connections at a time: those that dawdle are told so, and whoever asks properly is served meanwhile."""

from __future__ import annotations

import json
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.api.servers_ import PATIENCE_S, ServerProcess, wait_until
from tests.api.sockets_ import RawClient, address_of, ask, head, post
from tests.e2e.crowd_ import Crowd
from tests.e2e.customer_ import Customer

SIZE = 10_000
MAX_CONNECTIONS = 5_000  # the default
MAX_BODY_BYTES, QUEUE_BYTES = 2_000_000, 64_000_000  # the defaults
UNFINISHED = 1_000
CLIENT_TIMEOUT_S = 20
REQUEST = post(b'{"text": "Ada Lovelace worked with Charles Babbage in London."}', ["Connection: close"])
READY = head("GET", "/readyz", ["Connection: close"])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """The shipped model, with a shorter patience."""
    state = str(tmp_path / "state")
    server = ServerProcess(tmp_path, NER_STATE_DIR=state, NER_DRAIN_S="0", NER_CLIENT_TIMEOUT_S=str(CLIENT_TIMEOUT_S))
    yield server
    server.kill()


class Newcomer(Customer):
    """Comes on a new connection each time."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.statuses: Counter[int] = Counter()
        self.seconds: list[float] = []

    def ask(self) -> None:
        while not self.enough.wait(0.01):
            for request in (REQUEST, READY):
                started = time.monotonic()
                self.statuses[ask(self.url, request).status] += 1
                self.seconds.append(time.monotonic() - started)


def url_of(server: ServerProcess) -> str:
    """Once it is ready, and has answered."""
    url = server.wait_ready()
    assert ask(url, REQUEST).status == 200
    return url


def memory_mb(server: ServerProcess) -> int:
    """Resident, of the server."""
    status = Path(f"/proc/{server.process.pid}/status").read_text(encoding="ascii")
    return int(status.split("VmRSS:")[1].split()[0]) // 1_000


def test_ten_thousand_connections_that_dawdle_keep_nobody_out(server: ServerProcess) -> None:
    url = url_of(server)
    seen: dict[str, object] = {"memory_mb_before": memory_mb(server)}
    started = time.monotonic()
    with Newcomer(url) as customer, closing(Crowd(address_of(url), SIZE)) as crowd:
        crowd.listen_until(lambda: crowd.held <= MAX_CONNECTIONS, PATIENCE_S)
        seen["seconds_to_open_and_refuse"] = round(time.monotonic() - started, 2)
        seen["held"], seen["fates"] = crowd.held, dict(crowd.fates)
        seen["memory_mb_while_crowded"] = memory_mb(server)
        assert crowd.held >= MAX_CONNECTIONS - 100
        assert crowd.fates["429"] >= SIZE - MAX_CONNECTIONS - 100
        crowd.listen_until(lambda: crowd.held == 0, PATIENCE_S + CLIENT_TIMEOUT_S)
        seen["fates_in_the_end"] = dict(crowd.fates)
        seen["seconds_until_all_were_cut_off"] = round(time.monotonic() - started, 2)
    seen["memory_mb_after"] = memory_mb(server)
    seen["customers_requests"] = dict(customer.statuses)
    seen["customers_ms_p50_max"] = [round(1_000 * f(customer.seconds), 1) for f in (statistics.median, max)]
    print(json.dumps(seen))
    assert set(customer.statuses) == {200}
    assert crowd.fates["429"] + crowd.fates["408"] == SIZE
    assert "traceback" not in server.log


def test_large_bodies_that_never_end_take_no_more_memory_than_they_may(server: ServerProcess) -> None:
    url = url_of(server)
    before, peak = memory_mb(server), 0
    unfinished = post(b" " * (MAX_BODY_BYTES - 1))[:-1]
    most_kept = QUEUE_BYTES // MAX_BODY_BYTES + 1
    with Newcomer(url) as customer, ExitStack() as stack:
        clients = [stack.enter_context(RawClient(url)) for _ in range(UNFINISHED)]
        for client in clients:
            client.send(unfinished)
            peak = max(peak, memory_mb(server))
        wait_until(lambda: sum(client.has_answer for client in clients) >= UNFINISHED - most_kept)
        peak = max(peak, memory_mb(server))
    seen = {"bodies": UNFINISHED, "sent_mb": UNFINISHED * MAX_BODY_BYTES // 1_000_000}
    print(json.dumps({**seen, "memory_mb_before_and_peak": [before, peak], "customer": dict(customer.statuses)}))
    assert set(customer.statuses) == {200}
    assert peak - before < 6 * QUEUE_BYTES // 1_000_000
