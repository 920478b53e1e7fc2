"""From what a route found to the body that it answers with, by the very model that the API's document shows."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from fastapi import Response
from pydantic import TypeAdapter


def respond(model: Any, content: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return the answer of the plain values `content`, whose fields come in the order of the model's.

    Raises ValidationError where they are not what the model says, and no less and no more: a fault of ours. So the
    framework need not check again; routes name their `response_model` for the document alone.
    """
    adapter = _adapter(model)
    answer = adapter.validate_python(content, strict=True, extra="forbid")
    return Response(adapter.dump_json(answer), status, headers, media_type="application/json")


@cache
def _adapter(model: Any) -> TypeAdapter[Any]:
    return TypeAdapter(model)
