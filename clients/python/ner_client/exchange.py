"""What a client says to a server and makes of its answers, without sending anything: both clients drive the same steps.

An exchange is a generator. It yields a Call, and is sent the response, or the error instead of one; or it yields a
Pause, and goes on after it. It returns what was asked for, or raises NerError.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx2 as httpx

from ner_client.batches import Limits
from ner_client.errors import NerError, ServerLost, TextsRefused
from ner_client.wire import Options, Result

PATIENCE_S = 60.0
DEFAULT_URL = "http://127.0.0.1:8000"
TIMEOUT = httpx.Timeout(120.0, connect=5.0)  # the server's own limit, NER_TIMEOUT_MS, comes first
CONCURRENCY = 4  # requests at a time: the server works on one while others are on their way

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 8.0
_LATER = (429, 502, 503)  # no room; a proxy without a server behind it; a server that starts or ends
_TOO_SLOW = 504
_OF_THE_TEXTS = (400, 413, 422, 500)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """A request to send."""

    method: str
    url: httpx.URL
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Pause:
    """A time to wait before the next step."""

    seconds: float


Reply = httpx.Response | httpx.RequestError
Exchange = Generator[Call | Pause, Reply | None, T]


class _NotNow(Exception):
    """The same request may be answered later; `error` is what to raise if there is no time for that."""

    def __init__(self, error: NerError, retry_after_s: float = 0.0) -> None:
        super().__init__(error)
        self.error = error
        self.retry_after_s = retry_after_s


class Exchanges:
    """The exchanges with one server; several may be under way at a time.

    A server that has never answered is not waited for, since its address is likely to be wrong. For one that has
    answered before, an exchange waits up to `patience_s` from the first time that it gets no answer.
    """

    def __init__(self, url: str | None, key: str | None, patience_s: float) -> None:
        """See Client."""
        url = url if url is not None else os.environ.get("NER_URL") or DEFAULT_URL
        key = key if key is not None else os.environ.get("NER_API_KEY", "")
        expected = f"expected one such as {DEFAULT_URL}"
        try:
            self._root = httpx.URL(f"{url.rstrip('/')}/")
        except httpx.InvalidURL as error:
            raise ValueError(f"the server's address is {url!r} ({error}); {expected}") from error
        if self._root.scheme not in ("http", "https") or not self._root.host:
            raise ValueError(f"the server's address is {url!r}; {expected}")
        if not key.isprintable():
            raise ValueError("the key (NER_API_KEY) holds what cannot be sent, such as a line break")
        self.headers = {b"Content-Type": b"application/json", b"User-Agent": b"vee-ner-client"}
        if key:
            self.headers[b"Authorization"] = b"Bearer " + key.encode()
        self._patience_s = patience_s
        self._has_answered = False
        self._limits: Limits | None = None

    def ner(self, texts: Sequence[str], options: Options) -> Exchange[list[Result]]:
        """Return the result of each text, asked for in one request. Raises TextsRefused or ServerLost."""
        asked: dict[str, Any] = {"text": texts[0]} if len(texts) == 1 else {"texts": list(texts)}
        asked |= {name: value for name, value in options.items() if value is not None}
        call = Call("POST", self._root.join("ner"), json.dumps(asked).encode())
        may_be_slow = len(texts) == 1 and options.get("timeout_ms") is None
        return (yield from self._patiently(call, lambda got: self._results(call, got, len(texts), may_be_slow)))

    def each(
        self, first: int, texts: Sequence[str], options: Options, return_exceptions: bool
    ) -> Exchange[list[Result | TextsRefused]]:
        """Return the result of each text. If the server refuses them together, each is asked for alone.

        A text that it refuses alone raises TextsRefused, whose index counts from `first`; or has that for a result.
        """
        try:
            return [*(yield from self.ner(texts, options))]
        except TextsRefused as refused:
            if len(texts) == 1:
                refused.index = first
                if return_exceptions:
                    return [refused]
                raise
        results: list[Result | TextsRefused] = []
        for index, text in enumerate(texts, first):
            results += yield from self.each(index, [text], options, return_exceptions)
        return results

    def limits(self) -> Exchange[Limits]:
        """Return what goes into one request; the server is asked once. Raises ServerLost."""
        if self._limits is None:
            call = Call("GET", self._root.join("info"))
            told = yield from self._patiently(call, lambda got: self._read(call, got))
            try:
                self._limits = Limits.of(told["limits"])
            except (TypeError, KeyError) as error:
                raise self._another(call) from error
        return self._limits

    def read(self, path: str) -> Exchange[Any]:
        """Return what a GET answers. Raises ServerLost."""
        call = Call("GET", self._root.join(path))
        return (yield from self._patiently(call, lambda got: self._read(call, got)))

    def _patiently(self, call: Call, read: Callable[[httpx.Response], T]) -> Exchange[T]:
        """Send a request until `read` takes its response, or until the patience ends."""
        pauses_s = _pauses_s()
        give_up: float | None = None
        while True:
            reply = yield call
            try:
                return read(self._response(call, reply))
            except _NotNow as trouble:
                now = time.monotonic()
                give_up = give_up or now + self._patience_s
                pause_s = max(next(pauses_s), trouble.retry_after_s)
                if now + pause_s > give_up:
                    raise trouble.error from None
            yield Pause(pause_s)

    def _response(self, call: Call, reply: Reply | None) -> httpx.Response:
        """Return the response if there is one and it is final. Raises _NotNow, or ServerLost if there never was one."""
        if not isinstance(reply, httpx.Response):
            reason = f"no answer from {call.url}: {str(reply) or type(reply).__name__}"
            if self._has_answered:
                raise _NotNow(ServerLost(reason))
            raise ServerLost(f"{reason}; start a server, or name the one there is by its url or NER_URL") from reply
        self._has_answered = True
        if reply.status_code in _LATER:
            raise _NotNow(self._lost(call, reply), _retry_after_s(reply))
        return reply

    def _read(self, call: Call, response: httpx.Response) -> Any:
        if response.status_code != 200:
            raise self._lost(call, response)
        if not (body := _json_of(response)):
            raise self._another(call)
        return body

    def _results(self, call: Call, response: httpx.Response, num_texts: int, may_be_slow: bool) -> list[Result]:
        if response.status_code == _TOO_SLOW and may_be_slow:
            raise _NotNow(_error_of(TextsRefused, response))
        if response.status_code in (*_OF_THE_TEXTS, _TOO_SLOW):
            raise _error_of(TextsRefused, response)
        body = self._read(call, response)
        results = [body] if num_texts == 1 else body.get("results") if isinstance(body, dict) else None
        if not isinstance(results, list) or len(results) != num_texts or not all(map(_is_result, results)):
            raise self._another(call)
        return results

    def _another(self, call: Call) -> ServerLost:
        return ServerLost(f"{call.url} answered 200 and not what was asked for; is it this service?")

    def _lost(self, call: Call, response: httpx.Response) -> ServerLost:
        hint = "; the environment variable NER_API_KEY holds the key" if response.status_code == 401 else ""
        return _error_of(ServerLost, response, f"{call.url} answered {response.status_code}: ", hint)


def _is_result(result: object) -> bool:
    return isinstance(result, dict) and "entities" in result


def _pauses_s() -> Iterator[float]:
    pause_s = _FIRST_PAUSE_S
    while True:
        yield pause_s
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _retry_after_s(response: httpx.Response) -> float:
    """Return the seconds of the header Retry-After; 0 if there is none, or if it is a date."""
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isdecimal() else 0.0


def _json_of(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None


_E = TypeVar("_E", bound=NerError)


def _error_of(kind: type[_E], response: httpx.Response, before: str = "", after: str = "") -> _E:
    """Return an error with the message of an error's body; if it has none, with what its status means."""
    body = _json_of(response)
    told = body if isinstance(body, dict) else {}
    said = told.get("error")
    said = said if isinstance(said, str) else response.reason_phrase or "no reason given"
    return kind(
        f"{before}{said}{after}",
        status=response.status_code,
        error_type=str(told.get("error_type", "")),
        request_id=str(told.get("request_id", response.headers.get("X-Request-Id", ""))),
    )
