"""A server by script for the tests of the client: what it answers is a function of the texts. No test lives here."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import httpx2 as httpx

from ner_client import Client

Handler = Callable[[httpx.Request], httpx.Response]
URL = "http://ner.test:8000"
LIMITS = {
    "max_texts": 1_024,
    "queue_texts": 4_096,
    "queue_tokens": 262_144,
    "max_body_bytes": 2_000_000,
    "queue_bytes": 64_000_000,
}


def result(text: str) -> dict[str, Any]:
    """What the scripted server finds in a text."""
    return {"entities": [], "exit_layer": len(text)}


def texts_of(request: httpx.Request) -> list[str]:
    """The texts that a request asks for: one, or the lines of a stream."""
    return [json.loads(line)["text"] for line in request.content.splitlines()]


def answered(request: httpx.Request, results: Sequence[dict[str, Any]], **end: str) -> httpx.Response:
    """The results of a request's texts: of one text as it is, of a stream as lines.

    end  the fields of the last line of a stream that ended early
    """
    if not request.url.path.endswith("/stream"):
        return httpx.Response(200, json=results[0])
    lines = [{"line": number, **result} for number, result in enumerate(results, 1)]
    return lines_of(*lines, *([end] if end else []))


def lines_of(*lines: Any) -> httpx.Response:
    """Lines of JSON."""
    return httpx.Response(200, content="".join(json.dumps(line) + "\n" for line in lines))


def good(request: httpx.Request) -> httpx.Response:
    """The answer of a server that is well."""
    return answered(request, [result(text) for text in texts_of(request)])


def refusing(refused: str, message: str = "too strange") -> Handler:
    """A server that does not take one text."""

    def handler(request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/stream"):
            return bad(422, message) if refused in texts_of(request) else good(request)
        error = {"error": message, "error_type": "T"}
        return answered(request, [error if text == refused else result(text) for text in texts_of(request)])

    return handler


def bad(status: int, message: str = "so it is", **headers: str) -> httpx.Response:
    """An error as the service answers it."""
    return httpx.Response(status, json={"error": message, "error_type": "T"}, headers=headers)


def with_limits(handler: Handler, **limits: int) -> Handler:
    """A server that tells its limits, and asks `handler` for everything else."""
    told = httpx.Response(200, json={"limits": {**LIMITS, **limits}})
    return lambda request: told if request.url.path.endswith("/info") else handler(request)


def client_of(handler: Handler, key: str = "", *, patience_s: float = 60.0, **limits: int) -> Client:
    """A client whose server is `handler`, with these limits."""
    return Client(URL, key, patience_s=patience_s, transport=httpx.MockTransport(with_limits(handler, **limits)))


class Script:
    """Answers one call after the other as scripted, and every further one well; keeps the requests."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self._answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self._answers.pop(0) if self._answers else good(request)
        if isinstance(answer, Exception):
            raise answer
        return answer
