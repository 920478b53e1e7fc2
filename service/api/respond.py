"""Makes the body of an answer from what a route found, by the same model that the API's document shows."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from fastapi import Response
from pydantic import TypeAdapter


def respond(model: Any, content: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response whose body is the plain values `content`, with fields in the order of the model's.

    Raises ValidationError if a field is missing, unknown or of another type, which is a fault of ours. So the framework
    need not check again; routes name their `response_model` for the document alone.
    """
    return Response(checked_json(model, content), status, headers, media_type="application/json")


def checked_json(model: Any, content: object) -> bytes:
    """Return the body alone, as `respond` does."""
    adapter = _adapter(model)
    return adapter.dump_json(adapter.validate_python(content, strict=True, extra="forbid"))


@cache
def _adapter(model: Any) -> TypeAdapter[Any]:
    return TypeAdapter(model)
