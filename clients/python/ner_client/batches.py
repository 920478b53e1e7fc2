"""Puts texts together into streams of which the server takes every line before it has sent an answer.

For this client sends a whole request before it reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

_MOST_TEXTS, _MOST_CHARS = 32, 50_000  # a request of more is no faster, and keeps others waiting


@dataclass(frozen=True, slots=True)
class Limits:
    """The most texts, characters of text, and bytes of JSON that go into one request."""

    texts: int
    chars: int
    num_bytes: int

    @staticmethod
    def of(told: Mapping[str, int]) -> Limits:
        """Return what is well within the limits that GET /info tells. A piece has at least one character.

        Raises KeyError or TypeError for what has none.
        """
        return Limits(
            texts=min(_MOST_TEXTS, told["max_texts"], told["queue_texts"]),
            chars=min(_MOST_CHARS, told["queue_tokens"] // 2),
            num_bytes=min(told["max_body_bytes"], told["queue_bytes"]) // 2,
        )


def batches(texts: Iterable[str], limits: Limits) -> Iterator[tuple[int, list[str]]]:
    """Yield the texts in lists that keep to the limits, each with the index of its first, from 0.

    A text that alone is over a limit comes alone.
    """
    batch: list[str] = []
    num_chars = num_bytes = index = 0
    for index, text in enumerate(texts):
        length, size = len(text), len(json.dumps(text)) + 2
        is_full = len(batch) == limits.texts or num_chars + length > limits.chars or num_bytes + size > limits.num_bytes
        if batch and is_full:
            yield index - len(batch), batch
            batch, num_chars, num_bytes = [], 0, 0
        batch.append(text)
        num_chars += length
        num_bytes += size
    if batch:
        yield index + 1 - len(batch), batch
