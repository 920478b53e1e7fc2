"""The client for asyncio: it sends what an exchange says."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from types import TracebackType
from typing import Any, Literal, TypeVar, Unpack, overload

import httpx2 as httpx

from ner_client.batches import batches
from ner_client.errors import TextsRefused
from ner_client.exchange import CONCURRENCY, PATIENCE_S, TIMEOUT, Call, Exchange, Exchanges, Pause, Reply
from ner_client.wire import Model, Options, Result

T = TypeVar("T")


class AsyncClient:
    """Asks one server for the entities of texts, as Client does; several tasks of one event loop may use it."""

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        patience_s: float = PATIENCE_S,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """See Client."""
        self._exchanges = Exchanges(url, key, patience_s)
        self._http = httpx.AsyncClient(headers=self._exchanges.headers, timeout=TIMEOUT, transport=transport)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def ner(self, text: str, **options: Unpack[Options]) -> Result:
        """Return the entities of one text, and where its sentences left. Raises TextsRefused or ServerLost."""
        return await self._run(self._exchanges.ner(text, options))

    @overload
    def ner_many(
        self,
        texts: Iterable[str],
        *,
        return_exceptions: Literal[False] = ...,
        concurrency: int = ...,
        **options: Unpack[Options],
    ) -> AsyncGenerator[Result, None]: ...
    @overload
    def ner_many(
        self,
        texts: Iterable[str],
        *,
        return_exceptions: Literal[True],
        concurrency: int = ...,
        **options: Unpack[Options],
    ) -> AsyncGenerator[Result | TextsRefused, None]: ...
    async def ner_many(
        self,
        texts: Iterable[str],
        *,
        return_exceptions: bool = False,
        concurrency: int = CONCURRENCY,
        **options: Unpack[Options],
    ) -> AsyncGenerator[Result | TextsRefused, None]:
        """Yield the result of every text, in order. See Client."""
        pending: deque[asyncio.Task[list[Result | TextsRefused]]] = deque()
        limits = await self._run(self._exchanges.limits())
        try:
            for first, batch in batches(texts, limits):
                exchange = self._exchanges.each(first, batch, options, return_exceptions)
                pending.append(asyncio.create_task(self._run(exchange)))
                if len(pending) >= concurrency:
                    for result in await pending.popleft():
                        yield result
            while pending:
                for result in await pending.popleft():
                    yield result
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    async def models(self) -> list[Model]:
        """Return the models that the server serves; at present there is one. Raises ServerLost."""
        told: list[Model] = await self._read("models")
        return told

    async def exit_policy(self) -> dict[str, Any]:
        """Return the exit policy in force, with its version. Raises ServerLost."""
        told: dict[str, Any] = await self._read("exit-policy")
        return told

    async def info(self) -> dict[str, Any]:
        """Return what the server runs on, its limits and versions. Raises ServerLost."""
        told: dict[str, Any] = await self._read("info")
        return told

    async def _read(self, path: str) -> Any:
        return await self._run(self._exchanges.read(path))

    async def _run(self, exchange: Exchange[T]) -> T:
        """Return what an exchange comes to. Raises its error."""
        reply: Reply | None = None
        try:
            while True:
                step = exchange.send(reply)
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                reply = None if isinstance(step, Pause) else await self._send(step)
        except StopIteration as done:
            value: T = done.value
            return value

    async def _send(self, call: Call) -> Reply:
        try:
            return await self._http.request(call.method, call.url, content=call.body)
        except httpx.RequestError as error:
            return error
