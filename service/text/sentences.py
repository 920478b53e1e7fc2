"""Raw text to sentences with exact offsets, by `sentencex`. What a word is, is decided in `words`, not here."""

from __future__ import annotations

import sentencex


def split_sentences(text: str, language: str) -> list[tuple[int, int]]:
    """The sentences of `text` as (start, end) character offsets that cover it without a gap.

    A blank line ends a sentence, a single line break does not. A stretch without a single letter ("1. ", "* ", a blank
    line) is no sentence of its own and joins the one that follows, or the last one at the end of the text.

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
