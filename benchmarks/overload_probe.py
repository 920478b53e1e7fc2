"""Asks GET /readyz on a new connection each time, while `benchmarks.overload` sends its load."""

from __future__ import annotations

import http.client
import threading
import time

from benchmarks.load_trials import quantile

PAUSE_S = 0.02
TIMEOUT_S = 60.0


class Probe:
    """Threads that ask, one for each port, to be used in `with`."""

    def __init__(self, ports: list[int]) -> None:
        self._found: list[list[float]] = [[] for _ in ports]  # milliseconds
        self._failed = [0 for _ in ports]
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(index, port), daemon=True) for index, port in enumerate(ports)
        ]

    def __enter__(self) -> Probe:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def figures(self) -> list[dict[str, float]]:
        """Return, for each port, how often it was asked and failed, and its times in milliseconds."""
        rows = []
        for found, failed in zip(self._found, self._failed, strict=True):
            ordered = sorted(found)
            shares = {"p50": 0.5, "p99": 0.99, "p999": 0.999, "max": 1.0}
            times = {name: quantile(ordered, share) for name, share in shares.items()}
            rows.append({"asked": len(found) + failed, "failed": failed, **times})
        return rows

    def _ask(self, index: int, port: int) -> None:
        while not self._is_over.wait(PAUSE_S):
            started = time.monotonic()
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
            try:
                connection.request("GET", "/readyz")
                connection.getresponse().read()
                self._found[index].append(1_000 * (time.monotonic() - started))
            except (OSError, http.client.HTTPException):
                self._failed[index] += 1
            finally:
                connection.close()
