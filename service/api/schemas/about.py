"""The shapes of what the service says about itself: its health, its model, and what it runs on."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, FiniteFloat
from typing_extensions import TypedDict


class Health(TypedDict):
    """The health of the service."""

    status: Literal["alive", "ready", "draining", "stuck"]


class ModelOut(TypedDict):
    """The model that is served."""

    name: str
    version: str
    labels: list[str]
    nested: bool
    num_layers: int
    hidden_size: int
    strategies: Annotated[list[str], Field(description="exit strategies that it supports")]
    card: Annotated[str, Field(description="Markdown: what it was trained on and what that allows")]


class LimitsOut(TypedDict):
    """Settings by which a request can be refused."""

    max_body_bytes: int
    max_text_chars: int
    max_texts: int
    queue_texts: int
    queue_tokens: int
    queue_bytes: int
    timeout_ms: int
    max_connections: int
    client_timeout_s: FiniteFloat


class InfoOut(TypedDict):
    """The model that runs, what it runs on, and the limits of requests."""

    model: Annotated[str, Field(description="name@version")]
    device: str
    dtype: str
    executor: str
    threads: int
    instructions: NotRequired[
        Annotated[
            str,
            Field(description="on a CPU: those by which the kernels multiply bytes, or the most that PyTorch uses"),
        ]
    ]
    given_up: NotRequired[
        Annotated[str, Field(description="on a CPU: what would be faster than what runs, and why it does not run")]
    ]
    versions: dict[str, str]
    calibration: NotRequired[
        Annotated[
            dict[str, Any], Field(description="of a calibrated model: what its operating points were measured on")
        ]
    ]
    note: NotRequired[
        Annotated[
            str, Field(description="of a token classifier of Transformers: that it has no exits, and how it gets some")
        ]
    ]
    limits: LimitsOut
