"""The command `serve` with several serving processes.

    supervisor (this process: loads the model, forks)
      +- serving processes, each with an engine, a socket of its own on the port, and a share of threads and limits
      +- gatherer (port for health, metrics of all)

The system spreads connections over the sockets. The supervisor holds all of them, so that connections that wait for a
process that died are taken by the one in its place. The policy's history is in the state folder, or in Redis; every
process follows what another one saved.
"""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from service.api.http_server import Server, what_runs
from service.api.keys import load_admin_key, read_key
from service.api.listening import url_of
from service.api.server import Loaded, build_service, load, run_server
from service.errors import BadInput
from service.models.device import available_cores, choose_device
from service.policy.store import StateFolder
from service.processes.gatherer import Gatherer
from service.processes.link import Link
from service.processes.supervisor import Supervisor
from service.settings import Settings

log = logging.getLogger("service")

DIVIDED = (
    *("queue_texts", "queue_tokens", "queue_bytes", "max_connections", "cache_bytes"),
    *("sample_bytes", "sample_records"),
)


def serve_by_several(
    settings: Settings, process_started: float, sockets: Sequence[socket.socket], health: Sequence[socket.socket]
) -> None:
    """Serve until SIGTERM or SIGINT.

    sockets  bound to the port, which shows that nobody else has it; they are closed, and bound anew for each process

    Raises BadInput for a device that is not the CPU, and EngineFailed if processes die again and again.
    """
    count = settings.processes
    if choose_device(settings.device).type != "cpu":
        raise BadInput(f"NER_PROCESSES={count} needs NER_DEVICE=cpu: one process uses a GPU best")
    share = share_of(settings)
    with ExitStack() as held:
        addresses = [(bound.family, bound.getsockname()) for bound in sockets]
        for bound in sockets:
            bound.close()
        by_process = [[held.enter_context(bound) for bound in _listening(addresses)] for _ in range(count)]
        loaded = _loaded(share)
        given = read_key("NER_ADMIN_KEY", settings.admin_key, settings.admin_key_file)
        load_admin_key(given, settings.state_dir)  # made once, before any process reads it
        StateFolder.within(settings.state_dir, loaded.stored.reference)  # moves an old file, likewise
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="ner-")))
        path = folder / "gatherer"
        says_ready, ready = os.pipe()
        os.set_blocking(says_ready, False)
        announce = _Announcement(says_ready, count, process_started, url_of(settings.host, addresses[0][1][1]), loaded)

        def close_but(kept: Sequence[socket.socket]) -> None:
            """Let the ports go but for these: a socket takes connections as long as any process has it."""
            for bound in (bound for of_process in by_process for bound in of_process if bound not in kept):
                bound.close()

        def serve(own: list[socket.socket]) -> None:
            close_but(own)
            is_first = own is by_process[0]  # which alone calibrates from traffic, of its own samples
            of_process = share if is_first else share.model_copy(update={"calibrate_at": ""})
            service = build_service(of_process, _of_own_threads(share, loaded), Link(path))
            server = Server(service, process_started, on_ready=lambda: _tell(ready))
            run_server(server, service, own)

        def gather() -> None:
            close_but([])
            path.unlink(missing_ok=True)  # left by the one before
            Gatherer(path, count).run(settings, health)

        Supervisor([partial(serve, own) for own in by_process], gather, look=announce, end=lambda: close_but([])).run()


def share_of(settings: Settings) -> Settings:
    """Return the settings of one of several processes: its share of threads and limits."""
    count = settings.processes
    threads = max(1, (settings.threads or available_cores()) // count)
    limits = {name: -(-getattr(settings, name) // count) for name in DIVIDED}
    return settings.model_copy(update={"threads": threads, **limits})


def _loaded(share: Settings) -> Loaded:
    """Load the model on one thread: helpers of the executor would not be there after a fork."""
    return load(share, threads=1)


def _of_own_threads(share: Settings, loaded: Loaded) -> Loaded:
    """Return the model with an executor that has the threads of a process, in that process."""
    return loaded if share.threads == 1 else load(share, share.threads)


def _listening(addresses: Sequence[tuple[int, tuple[object, ...]]]) -> list[socket.socket]:
    """Return sockets for one process; the system spreads connections over those of all processes."""
    bound = []
    for family, address in addresses:
        one = socket.socket(family, socket.SOCK_STREAM)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address[0] != "::"))
        one.bind(address)
        bound.append(one)
    return bound


def _tell(pipe: int) -> None:
    os.write(pipe, b".")


class _Announcement:
    """Logs once that all processes answer."""

    def __init__(self, pipe: int, count: int, process_started: float, url: str, loaded: Loaded) -> None:
        self._pipe, self._count, self._missing = pipe, count, count
        self._process_started = process_started
        self._data = {"url": url, "model": loaded.stored.reference, **what_runs(loaded.environment)}

    def __call__(self) -> None:
        if self._missing <= 0:
            return
        try:
            self._missing -= len(os.read(self._pipe, self._count))
        except BlockingIOError:
            return
        if self._missing <= 0:
            seconds = round(time.monotonic() - self._process_started, 2)
            log.info("ready", extra={"data": {**self._data, "seconds": seconds, "processes": self._count}})
