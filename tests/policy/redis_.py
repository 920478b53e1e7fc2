"""A real redis-server for tests, a way to it that leads elsewhere on demand, and replicas on it. No test lives here."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

import pytest
from redis import Redis
from redis.exceptions import RedisError

from service.exits.assets import ModelAssets
from service.exits.operating_points import Calibration
from service.policy.goals import Goals
from service.policy.live import LivePolicy
from service.policy.redis_store import RedisStore
from service.policy.store import StateFolder
from service.policy.versions import PolicyVersion
from tests.api.servers_ import wait_until
from tests.policy.live_ import minutes

MODEL = "tiny@1"
KEY = f"ner:exit-policy:{{{MODEL}}}"

needs_redis = pytest.mark.skipif(
    shutil.which("redis-server") is None,
    reason="needs redis-server, of the system's package redis-server: not run here",
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RedisServer:
    """`redis-server` on a free port, with its data in `folder`; it writes them down only when told to `save`."""

    def __init__(self, folder: Path, *options: str, password: str = "", port: int | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self.port = port or free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder)]
        self._command += ["--save", "", "--appendonly", "no", *options]
        if password:
            self._command += ["--requirepass", password]
        self.client = Redis(port=self.port, password=password or None, socket_timeout=60)
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Return once it answers."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(self._answers)

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except RedisError:
            if self._process.poll() is not None:
                raise RuntimeError(f"redis-server ended with {self._process.returncode}") from None
            return False

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """SIGSTOP: connections are taken by the system, and nothing is answered; afterwards SIGCONT."""
        os.kill(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._process.pid, signal.SIGCONT)

    def close(self) -> None:
        """Make sure that it is gone."""
        self.client.close()
        if self._process.poll() is None:
            self.kill()


class Detour:
    """A port of its own that leads to the port `to`; when that is changed, the connections there were are cut."""

    def __init__(self, to: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._to = to
        self._open: list[socket.socket] = []
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        threading.Thread(target=self._accept, daemon=True).start()

    def lead_to(self, port: int) -> None:
        """From now on."""
        self._to = port
        self._cut()

    def close(self) -> None:
        """End it."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._cut()

    def _cut(self) -> None:
        while self._open:
            one = self._open.pop()
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                self._open += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=_pass_on, args=(source, sink), daemon=True).start()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_RDWR)


class Replicas:
    """Live policies of one model, each as in a process of its own, in `folder`."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self._url = url
        self.stores: list[RedisStore] = []

    def store(self, name: str = "a", *, url: str = "", model: str = MODEL) -> RedisStore:
        """The store as a replica of that name has it."""
        self.stores.append(RedisStore(url or self._url, model, StateFolder.copy_within(self._folder / name, model)))
        return self.stores[-1]

    def start(
        self,
        name: str = "a",
        *,
        url: str = "",
        model: str = MODEL,
        calibration: Calibration | None = None,
        on_change: Callable[[PolicyVersion], None] = lambda _: None,
        on_store: Callable[[bool], None] = lambda _: None,
    ) -> LivePolicy:
        """A replica of that name, started, or started again."""
        goals = Goals.of(model, ModelAssets(4), calibration)
        store = self.store(name, url=url, model=model)
        return LivePolicy(goals, store, now=minutes(), on_change=on_change, on_store=on_store)

    def close(self) -> None:
        """Close the connections of all."""
        for store in self.stores:
            store.close()
