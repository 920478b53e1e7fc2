"""The shape of every error."""

from __future__ import annotations

from pydantic import BaseModel


class ErrorOut(BaseModel):
    """The body of every error."""

    error: str
    error_type: str
    request_id: str
