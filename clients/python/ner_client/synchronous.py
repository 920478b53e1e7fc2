"""The client for threads: it sends what an exchange says."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Literal, TypeVar, Unpack, overload

import httpx2 as httpx

from ner_client.batches import batches
from ner_client.errors import NerError, TextsRefused
from ner_client.exchange import CONCURRENCY, PATIENCE_S, TIMEOUT, Call, Exchange, Exchanges, Pause, Reply
from ner_client.wire import Model, Options, Result

T = TypeVar("T")


class Stopped(NerError):
    """Nobody waits for the answer any more."""


class Client:
    """Asks one server for the entities of texts; several threads may use it.

    A request that gets 429, 502 or 503, or no answer from a server that has answered before, is sent again: after the
    server's Retry-After, or after pauses that grow.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        patience_s: float = PATIENCE_S,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Open nothing yet; raise ValueError for what is no address, and for a key that cannot be sent.

        url         the server; None: NER_URL, or else http://127.0.0.1:8000
        key         the API key; None: NER_API_KEY; empty for a server that needs none
        patience_s  how long a request is sent again before its error is raised
        transport   what sends the requests, instead of the network
        """
        self._exchanges = Exchanges(url, key, patience_s)
        self._http = httpx.Client(headers=self._exchanges.headers, timeout=TIMEOUT, transport=transport)
        self._never = threading.Event()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def ner(self, text: str, **options: Unpack[Options]) -> Result:
        """Return the entities of one text, and where its sentences left. Raises TextsRefused or ServerLost."""
        return self._run(self._exchanges.ner(text, options), self._never)

    @overload
    def ner_many(
        self,
        texts: Iterable[str],
        *,
        return_exceptions: Literal[False] = ...,
        concurrency: int = ...,
        **options: Unpack[Options],
    ) -> Generator[Result, None, None]: ...
    @overload
    def ner_many(
        self,
        texts: Iterable[str],
        *,
        return_exceptions: Literal[True],
        concurrency: int = ...,
        **options: Unpack[Options],
    ) -> Generator[Result | TextsRefused, None, None]: ...
    def ner_many(
        self,
        texts: Iterable[str],
        *,
        return_exceptions: bool = False,
        concurrency: int = CONCURRENCY,
        **options: Unpack[Options],
    ) -> Generator[Result | TextsRefused, None, None]:
        """Yield the result of every text, in order; texts are read as they are needed, however many there are.

        They go together into streams within the limits that the server tells, `concurrency` of them at a time, as bulk
        work: it is done with what requests for single texts leave. A text that the server refuses has no effect on
        others: it raises TextsRefused, whose `index` says which it was, or, with `return_exceptions`, has that for a
        result. Raises ServerLost, and TextsRefused without an `index` for options that the server refuses.
        """
        stopped = threading.Event()
        pending: deque[Future[list[Result | TextsRefused]]] = deque()
        limits = self._run(self._exchanges.limits(), stopped)
        with ThreadPoolExecutor(concurrency) as pool:
            try:
                for first, batch in batches(texts, limits):
                    exchange = self._exchanges.each(first, batch, options, return_exceptions)
                    pending.append(pool.submit(self._run, exchange, stopped))
                    if len(pending) > concurrency:
                        yield from pending.popleft().result()
                while pending:
                    yield from pending.popleft().result()
            finally:
                stopped.set()
                pool.shutdown(cancel_futures=True)

    def models(self) -> list[Model]:
        """Return the models that the server serves; at present there is one. Raises ServerLost."""
        told: list[Model] = self._read("models")
        return told

    def exit_policy(self) -> dict[str, Any]:
        """Return the exit policy in force, with its version. Raises ServerLost."""
        told: dict[str, Any] = self._read("exit-policy")
        return told

    def info(self) -> dict[str, Any]:
        """Return what the server runs on, its limits and versions. Raises ServerLost."""
        told: dict[str, Any] = self._read("info")
        return told

    def _read(self, path: str) -> Any:
        return self._run(self._exchanges.read(path), self._never)

    def _run(self, exchange: Exchange[T], stopped: threading.Event) -> T:
        """Return what an exchange comes to. Raises its error, or Stopped before its next step."""
        reply: Reply | None = None
        try:
            while True:
                step = exchange.send(reply)
                if stopped.wait(step.seconds if isinstance(step, Pause) else 0.0):
                    raise Stopped("nobody waits for the answer any more")
                reply = None if isinstance(step, Pause) else self._send(step)
        except StopIteration as done:
            value: T = done.value
            return value

    def _send(self, call: Call) -> Reply:
        try:
            return self._http.request(call.method, call.url, content=call.body)
        except httpx.RequestError as error:
            return error
