"""A server by script for the tests of the client: what it answers is a function of the texts. No test lives here."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx2 as httpx

from service.client.http import NerClient

URL = "http://ner.test:8000"


def result(text: str) -> dict[str, Any]:
    """What the scripted server finds in a text."""
    return {"entities": [], "exit_layer": len(text)}


def texts_of(request: httpx.Request) -> list[str]:
    """The texts that a request asks for."""
    body = json.loads(request.content)
    texts: list[str] = [body["text"]] if "text" in body else body["texts"]
    return texts


def good(request: httpx.Request) -> httpx.Response:
    """The answer of a server that is well."""
    results = [result(text) for text in texts_of(request)]
    return httpx.Response(200, json={"results": results} if b'"texts"' in request.content else results[0])


def bad(status: int, message: str = "so it is", **headers: str) -> httpx.Response:
    """An error as the service answers it."""
    return httpx.Response(status, json={"error": message, "error_type": "T"}, headers=headers)


def client_of(handler: Callable[[httpx.Request], httpx.Response], key: str = "", **options: Any) -> NerClient:
    """A client whose server is `handler`."""
    return NerClient(URL, key, transport=httpx.MockTransport(handler), **options)


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
