"""The texts of the traffic are such as a newspaper could print."""

from __future__ import annotations

import re
from random import Random

from load.texts import text


def test_the_same_seed_gives_the_same_texts() -> None:
    assert [text(Random(7)) for _ in range(5)] == [text(Random(7)) for _ in range(5)]


def test_every_slot_is_filled_and_every_sentence_is_one() -> None:
    random = Random(1)
    for _ in range(500):
        made = text(random)
        assert not re.search(r"[{}]|\bthe the\b|  |[.,]{2}", made, re.IGNORECASE)
        assert made[0].isupper() and made.endswith(".")


def test_lengths_vary_from_a_few_words_to_many() -> None:
    random = Random(2)
    lengths = sorted(len(text(random).split()) for _ in range(1_000))
    assert lengths[20] <= 3 < 12 <= lengths[500] <= 40 < 80 <= lengths[980]
