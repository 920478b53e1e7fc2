"""The mix of requests of the overload benchmark: the shares that it tells, and nothing that a server could run once."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from benchmarks.overload import LONGEST_LIST, SHARES, bodies, numbered

TEXTS = ["Oslo", "Angela Merkel flew from Rome .", "EU rejects German call ."]


def test_no_sentence_occurs_twice_in_all_bodies() -> None:
    made = bodies(TEXTS, 300, Random(0))
    sentences = [sentence for body in made for sentence in body.get("texts") or [body["text"]]]
    assert len(set(sentences)) == len(sentences)
    words = [word for sentence in sentences for word in sentence.split() if word.isdigit()]
    assert len(set(words)) == len(words) >= len(sentences)


def test_a_number_leaves_a_sentence_one_sentence() -> None:
    assert [numbered(text, 7) for text in TEXTS[:2]] == ["Oslo 7", "Angela 7 Merkel flew from Rome ."]


def test_the_kinds_of_requests_have_their_shares() -> None:
    made = bodies(TEXTS, 2_000, Random(0))
    kinds = Counter(
        "list" if "texts" in body else "long" if "trace" not in body else "trace" if body["trace"] else "single"
        for body in made
    )
    assert {kind: count / len(made) for kind, count in kinds.items()} == pytest.approx(SHARES, abs=0.03)
    assert max(len(body["texts"]) for body in made if "texts" in body) == LONGEST_LIST
