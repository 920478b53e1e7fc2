"""A client of POST /ner: it sends a request again if that may succeed later, and else raises an error that says why."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import httpx2 as httpx

from service.errors import BadInput, ServiceError

PATIENCE_S = 60.0
_TIMEOUT = httpx.Timeout(120.0, connect=5.0)  # the server's own limit, NER_TIMEOUT_MS, comes first
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 8.0
_LATER = (429, 502, 503)  # no room; a proxy without a server behind it; a server that starts or ends
_TOO_SLOW = 504
_OF_THE_TEXTS = (400, 413, 422, 500)


class TextsRefused(ServiceError):
    """The server refused these texts, or failed on them; other texts may succeed."""


class ServerLost(ServiceError):
    """There is no server, another server, or the key is wrong: no request to it will be answered."""


class Stopped(ServiceError):
    """The client was stopped while it waited to send a request again."""


class _NotNow(Exception):
    """The same request may be answered later; `error` is what to raise if there is no time for that."""

    def __init__(self, error: ServiceError, retry_after_s: float = 0.0) -> None:
        super().__init__(error)
        self.error = error
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Serving:
    """Says what a server answers with: its model (name@version), the model's labels, the exit policy's version."""

    model: str
    labels: tuple[str, ...]
    policy_version: int


class NerClient:
    """Sends texts to one server; several threads may use it.

    The client does not wait for a server that has never answered, since its address is likely to be wrong. For a server
    that has answered before, it waits up to `patience_s` from the first time that a request gets no answer.
    """

    def __init__(
        self,
        url: str,
        key: str = "",
        *,
        patience_s: float = PATIENCE_S,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """key: the API key; empty for a server that needs none. transport: for tests."""
        expected = "expected one such as http://HOST:8000"
        try:
            self._url = httpx.URL(f"{url.rstrip('/')}/ner")
        except httpx.InvalidURL as error:
            raise BadInput(f"the server's address is {url!r} ({error}); {expected}") from error
        if self._url.scheme not in ("http", "https") or not self._url.host:
            raise BadInput(f"the server's address is {url!r}; {expected}")
        headers = {b"Content-Type": b"application/json"}
        if not key.isprintable():
            raise BadInput("the key (NER_API_KEY) holds what cannot be sent, such as a line break")
        if key:
            headers[b"Authorization"] = b"Bearer " + key.encode()
        self._http = httpx.Client(headers=headers, timeout=_TIMEOUT, transport=transport)
        self._patience_s = patience_s
        self._has_answered = False
        self._stopped = threading.Event()

    def __enter__(self) -> NerClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.close()

    def stop(self) -> None:
        """Make every thread that waits to send a request again raise Stopped."""
        self._stopped.set()

    def serving(self) -> Serving:
        """Return what the server answers with just now. Raises ServerLost."""
        models, policy = self._read("models"), self._read("exit-policy")
        try:
            model = models[0]
            return Serving(f"{model['name']}@{model['version']}", tuple(model["labels"]), policy["version"])
        except (TypeError, KeyError, IndexError) as error:
            raise ServerLost(f"{self._url} has no model of the kind that is known here; is it this service?") from error

    def ner(self, texts: Sequence[str], labels: Sequence[str] = ()) -> list[dict[str, Any]]:
        """Return the result of each text, as on the wire, with entities of `labels` alone if there are any.

        Raises TextsRefused, ServerLost or Stopped.
        """
        asked: dict[str, Any] = {"text": texts[0]} if len(texts) == 1 else {"texts": list(texts)}
        body = json.dumps({**asked, **({"labels": list(labels)} if labels else {})}).encode()
        pauses_s = _pauses_s()
        give_up: float | None = None
        while True:
            try:
                return self._send(body, len(texts))
            except _NotNow as trouble:
                now = time.monotonic()
                give_up = give_up or now + self._patience_s
                pause_s = max(next(pauses_s), trouble.retry_after_s)
                if now + pause_s > give_up:
                    raise trouble.error from None
                if self._stopped.wait(pause_s):
                    raise Stopped("stopped while waiting for the server") from None

    def _read(self, path: str) -> Any:
        url = self._url.join(path)  # beside /ner
        try:
            response = self._http.get(url)
        except httpx.RequestError as error:
            raise self._unreachable(error) from error
        self._has_answered = True
        if response.status_code != 200:
            raise self._lost(response.status_code, _error_of(response))
        return _json_of(response) or {}

    def _unreachable(self, error: httpx.RequestError) -> ServerLost:
        reason = f"no answer from {self._url}: {str(error) or type(error).__name__}"
        hint = "" if self._has_answered else "; start a server, or name the one there is by --url or NER_URL"
        return ServerLost(reason + hint)

    def _send(self, body: bytes, num_texts: int) -> list[dict[str, Any]]:
        try:
            response = self._http.post(self._url, content=body)
        except httpx.RequestError as error:
            lost = self._unreachable(error)
            if self._has_answered:
                raise _NotNow(lost) from error
            raise lost from error
        self._has_answered = True
        status, said = response.status_code, _error_of(response)
        if status == 200:
            return self._results(response, num_texts)
        if status in _LATER:
            raise _NotNow(self._lost(status, said), _retry_after_s(response))
        if status == _TOO_SLOW and num_texts == 1:
            raise _NotNow(TextsRefused(said))
        if status in (*_OF_THE_TEXTS, _TOO_SLOW):
            raise TextsRefused(said)
        raise self._lost(status, said)

    def _results(self, response: httpx.Response, num_texts: int) -> list[dict[str, Any]]:
        body = _json_of(response)
        results = [body] if num_texts == 1 else body.get("results") if isinstance(body, dict) else None
        if not isinstance(results, list) or len(results) != num_texts or not all(map(_is_result, results)):
            raise ServerLost(f"{self._url} answered 200 and something else than entities; is it this service?")
        return results

    def _lost(self, status: int, said: str) -> ServerLost:
        hint = "; the environment variable NER_API_KEY holds the key" if status == 401 else ""
        return ServerLost(f"{self._url} answered {status}: {said}{hint}")


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


def _error_of(response: httpx.Response) -> str:
    """Return the message of an error's body; if it has none, what its status means."""
    body = _json_of(response)
    said = body.get("error") if isinstance(body, dict) else None
    return said if isinstance(said, str) else response.reason_phrase or "no reason given"
