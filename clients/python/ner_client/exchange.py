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
_NO_STREAMS = "; many texts go to POST /ner/stream, which a server of version 0.5 or older has not"

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

    def ner(self, text: str, options: Options) -> Exchange[Result]:
        """Return the result of a text. Raises TextsRefused or ServerLost."""
        asked = {"text": text, **{name: value for name, value in options.items() if value is not None}}
        call = Call("POST", self._root.join("ner"), json.dumps(asked).encode())
        may_be_slow = options.get("timeout_ms") is None
        return (yield from self._patiently(call, lambda got: self._result(call, got, may_be_slow)))

    def each(
        self, first: int, texts: Sequence[str], options: Options, return_exceptions: bool
    ) -> Exchange[list[Result | TextsRefused]]:
        """Return the result of each text. Raises ServerLost, and TextsRefused for options that the server refuses.

        A text that it refuses raises TextsRefused, whose index counts from `first`; or has that for a result.
        """
        results: list[Result | TextsRefused] = []
        while len(results) < len(texts):  # a server that is about to end leaves some to another one
            results += yield from self._lines(texts[len(results) :], options)
        for index, result in enumerate(results, first):
            if isinstance(result, TextsRefused):
                result.index = index
                if not return_exceptions:
                    raise result
        return results

    def _lines(self, texts: Sequence[str], options: Options) -> Exchange[list[Result | TextsRefused]]:
        """Return the results of the first of some texts, as many as a stream of them all gives before it ends."""
        url = self._root.join("ner/stream").copy_merge_params(_query(options))
        call = Call("POST", url, b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts))
        return (yield from self._patiently(call, lambda got: self._results(call, got, len(texts))))

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

    def _result(self, call: Call, response: httpx.Response, may_be_slow: bool) -> Result:
        if response.status_code == _TOO_SLOW and may_be_slow:
            raise _NotNow(_error_of(TextsRefused, response))
        if response.status_code in (*_OF_THE_TEXTS, _TOO_SLOW):
            raise _error_of(TextsRefused, response)
        body = self._read(call, response)
        if not _is_result(body):
            raise self._another(call)
        result: Result = body
        return result

    def _results(self, call: Call, response: httpx.Response, num_texts: int) -> list[Result | TextsRefused]:
        """Return the results of a stream; raise _NotNow if the server ended it before the first one."""
        if response.status_code in _OF_THE_TEXTS:
            raise _error_of(TextsRefused, response)
        if response.status_code == 404:
            raise _error_of(ServerLost, response, f"{call.url} answered 404: ", _NO_STREAMS)
        if response.status_code != 200:
            raise self._lost(call, response)
        lines = _lines_of(response)
        end = lines.pop() if lines and _is_end(lines[-1]) else None
        if (end is None and len(lines) != num_texts) or not all(map(_is_line, lines)):
            raise self._another(call)
        if end is not None and not lines:
            raise _NotNow(_error_in(ServerLost, end))
        return [_without_line(line) if "entities" in line else _error_in(TextsRefused, line) for line in lines]

    def _another(self, call: Call) -> ServerLost:
        return ServerLost(f"{call.url} answered 200 and not what was asked for; is it this service?")

    def _lost(self, call: Call, response: httpx.Response) -> ServerLost:
        hint = "; the environment variable NER_API_KEY holds the key" if response.status_code == 401 else ""
        return _error_of(ServerLost, response, f"{call.url} answered {response.status_code}: ", hint)


def _is_result(result: object) -> bool:
    return isinstance(result, dict) and "entities" in result


def _is_line(line: object) -> bool:
    """Tell whether something is the answer to a line: a result, or an error in its place."""
    return isinstance(line, dict) and "line" in line and ("entities" in line or "error" in line)


def _is_end(line: object) -> bool:
    """Tell whether something is the last line of a stream that ended early, which says why."""
    return isinstance(line, dict) and "line" not in line and "error" in line


def _without_line(line: dict[str, Any]) -> Any:
    """Return the result of a line without its number, which means nothing outside of its stream."""
    return {name: value for name, value in line.items() if name != "line"}


def _query(options: Options) -> dict[str, str]:
    """Return options as a stream has them, for all its lines."""
    given = {name: value for name, value in options.items() if value is not None and name != "priority"}
    labels = options.get("labels")
    return {
        **{name: json.dumps(value) for name, value in given.items() if name != "labels"},
        **({} if labels is None else {"labels": ",".join(labels)}),
    }


def _lines_of(response: httpx.Response) -> list[Any]:
    """Return the lines of JSON of a response; None for what is no line of JSON."""
    lines = []
    for line in response.content.splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            lines.append(None)
    return lines


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


def _error_in(kind: type[_E], line: dict[str, Any]) -> _E:
    """Return an error with the message of a stream's line."""
    error_type, request_id = (str(line.get(name, "")) for name in ("error_type", "request_id"))
    return kind(str(line.get("error")), error_type=error_type, request_id=request_id)
