"""Ten thousand connections at a time: those that dawdle are told so, and whoever asks properly is served meanwhile."""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.api.servers_ import PATIENCE_S, ServerProcess
from tests.api.sockets_ import Address, ask, head, post
from tests.e2e.crowd_ import Crowd

SIZE = 10_000
MAX_CONNECTIONS = 5_000  # the default
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


class Customer:
    """Asks again and again, on a new connection each time, until told to stop."""

    def __init__(self, address: Address) -> None:
        self.statuses: Counter[int] = Counter()
        self.seconds: list[float] = []
        self._address = address
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def stop(self) -> None:
        """After the request in hand."""
        self._enough.set()
        self._thread.join(PATIENCE_S)

    def _ask(self) -> None:
        while not self._enough.wait(0.01):
            for request in (REQUEST, READY):
                started = time.monotonic()
                self.statuses[ask(self._address, request).status] += 1
                self.seconds.append(time.monotonic() - started)


def memory_mb(server: ServerProcess) -> int:
    """Resident, of the server."""
    status = Path(f"/proc/{server.process.pid}/status").read_text(encoding="ascii")
    return int(status.split("VmRSS:")[1].split()[0]) // 1_000


def test_ten_thousand_connections_that_dawdle_keep_nobody_out(server: ServerProcess) -> None:
    url = urlsplit(server.wait_ready())
    address = (str(url.hostname), int(url.port or 0))
    assert ask(address, REQUEST).status == 200
    seen: dict[str, object] = {"memory_mb_before": memory_mb(server)}
    customer = Customer(address)
    started = time.monotonic()
    crowd = Crowd(address, SIZE)
    try:
        crowd.listen_until(lambda: crowd.held <= MAX_CONNECTIONS, PATIENCE_S)
        seen["seconds_to_open_and_refuse"] = round(time.monotonic() - started, 2)
        seen["held"], seen["fates"] = crowd.held, dict(crowd.fates)
        seen["memory_mb_while_crowded"] = memory_mb(server)
        assert crowd.held >= MAX_CONNECTIONS - 100
        assert crowd.fates["429"] >= SIZE - MAX_CONNECTIONS - 100
        crowd.listen_until(lambda: crowd.held == 0, PATIENCE_S + CLIENT_TIMEOUT_S)
        seen["fates_in_the_end"] = dict(crowd.fates)
        seen["seconds_until_all_were_cut_off"] = round(time.monotonic() - started, 2)
    finally:
        customer.stop()
        crowd.leave()
    seen["memory_mb_after"] = memory_mb(server)
    seen["customers_requests"] = dict(customer.statuses)
    seen["customers_ms_p50_max"] = [round(1_000 * f(customer.seconds), 1) for f in (statistics.median, max)]
    print(json.dumps(seen))
    assert set(customer.statuses) == {200}
    assert crowd.fates["429"] + crowd.fates["408"] == SIZE
    assert "traceback" not in server.log
