"""Splits raw text into sentences with exact offsets, by `sentencex`. Words are found in `words`."""

from __future__ import annotations

import sentencex


def split_sentences(text: str, language: str) -> list[tuple[int, int]]:
    """Return the sentences of `text` as (start, end) character offsets that cover it without a gap.

    A blank line ends a sentence, a single line break does not. A stretch without any letter ("1. ", "* ", a blank line)
    is not a sentence of its own: it belongs to the next sentence, or at the end of the text to the last one.

    language: an ISO 639-1 code; `sentencex` falls back to general rules for one it does not know.
    """
    sentences: list[tuple[int, int]] = []
    start = 0
    for boundary in sentencex.get_sentence_boundaries(language, text):
        end = int(boundary["end_index"])
        if any(character.isalpha() for character in text[start:end]):
            sentences.append((start, end))
            start = end
    if start < len(text):  # a tail without letters, or a text without any
        first = sentences.pop()[0] if sentences else 0
        sentences.append((first, len(text)))
    return sentences
