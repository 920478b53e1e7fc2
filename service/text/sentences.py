"""Splits raw text into sentences with exact offsets, by `sentencex` and by its layout. Words are found in `words`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from service.text.layout import item_ends

CHUNK_CHARS = 8_192  # given to the segmenter at a time: on some texts its time grows with the square of their length

LONGEST_ABBREVIATION = 12  # characters, with the blanks around it

CLOSING = {'"': '"', "“": "”", "«": "»", "(": ")"}  # by the mark that opens a quotation or brackets


def split_sentences(text: str, language: str) -> list[tuple[int, int]]:
    """Return the sentences of `text` as (start, end) character offsets that cover it without a gap.

    An item of the layout ends a sentence: a line, unless it is one of wrapped prose, and a cell of a table. A stretch
    without any letter ("1. ", "* ", a blank line) is not a sentence of its own: it belongs to the next sentence, or at
    the end of the text to the last one.

    The time is linear in the length of the text, whatever the text.

    language: an ISO 639-1 code; `sentencex` falls back to general rules for one it does not know.
    """
    sentences: list[tuple[int, int]] = []
    start = looked_at = 0
    for end in sorted([*_sentence_ends(text, language), *item_ends(text)]):  # two sorted runs: linear
        if any(character.isalpha() for character in text[looked_at:end]):  # none before has a letter
            sentences.append((start, end))
            start = end
        looked_at = end
    if start < len(text):  # a tail without letters, or a text without any
        first = sentences.pop()[0] if sentences else 0
        sentences.append((first, len(text)))
    return sentences


_GOES_ON = re.compile(
    r"(?:^|[\s(\"'“‘])(?:Ft|St|Mt|Mts|Pt|Messrs|Mmes|Supt|Cpl|Pvt|Brig|Cmdr|Adm|Atty|Hon|Det|Insp|www)\.\s*$"
)
_STARTERS = (
    "The|A|An|He|She|It|They|We|I|You|His|Her|Its|Their|This|That|These|Those|There|But|And|So|In|On|At|For|From|After|"
    "Before|When|While|If|As|With|By|Now|Then|However|Meanwhile|Yesterday|Today|Last|Next|No|Not|What|Who|How|Why|Where"
)
_OF_THE_STATES = (
    "Air|Ambassador|Army|Attorney|Census|Coast|Congress|Constitution|Defense|Department|Embassy|Federal|Geological|"
    "Government|House|Justice|Marine|Marines|National|Navy|Open|Postal|President|Rep|Representative|Secret|Secretary|"
    "Sen|Senate|Senator|State|Supreme|Treasury"
)
_FIRM = r"(?:Inc|Corp|Ltd|Co|Bros)\."
_MAY_END = re.compile(
    rf"\b(?:(?:[A-Z]\.){{2,6}}+|{_FIRM}|Jr\.|Sr\.|etc\.|[ap]\.m\.)\s+(?=(?:{_STARTERS})\b)"
    rf"|\b{_FIRM}\s+(?=(?:[A-Z][\w&'-]{{1,20}} ){{1,3}}{_FIRM})"  # two firms, of which the second begins a sentence
    rf"|\bthe U\.[SKN]\.\s+(?=(?!(?:{_OF_THE_STATES})\b)[A-Z][a-z]{{1,20}} (?:is|was|has|had|will|would|said|says)\b)"
)


_STOP_INSIDE = re.compile(r"\.\s")  # without which none of these is to be looked for


def _sentence_ends(text: str, language: str) -> Iterator[int]:
    """Yield where sentences end: where the segmenter says so, but for English abbreviations that it does not know.

    After "Ft." no sentence ends. After "U.S." or "Inc." one does if a word follows that begins sentences, not names, or
    another firm, or a name with its verb.
    """
    if language != "en":
        yield from _boundaries(text, language)
        return
    extra = [found.end() for found in _MAY_END.finditer(text)] if _STOP_INSIDE.search(text) else []
    for end in sorted([*_boundaries(text, language), *extra]):
        if end == len(text) or not _GOES_ON.search(text, max(0, end - LONGEST_ABBREVIATION), end):
            yield end


def _boundaries(text: str, language: str) -> Iterator[int]:
    """Yield where sentences end, a chunk at a time; a sentence that a chunk cuts is read again with the next one.

    A sentence that fills a chunk alone is not cut there: it ends where the next chunk says.
    """
    import sentencex  # read here alone: what never sees a raw text loads without it

    position = 0
    while position < len(text):
        chunk = text[position : position + CHUNK_CHARS]
        if position + len(chunk) < len(text):
            chunk = _before_cut_quotation(chunk)
        ends = [int(boundary["end_index"]) for boundary in sentencex.get_sentence_boundaries(language, chunk)]
        if position + len(chunk) < len(text):
            ends.pop()  # it ends with the chunk, and perhaps goes on after it
        yield from (position + end for end in ends)
        position += ends[-1] if ends else _before_last_blank(chunk)


def _before_cut_quotation(chunk: str) -> str:
    """Return a chunk up to the quotation that its end cuts; all of it where it cuts none, or holds nothing else.

    The segmenter does not cut inside a pair of quotation marks or brackets. Of a chunk that holds half of a pair, it
    would take what is outside for what is inside.
    """
    open_at: dict[str, list[int]] = {closing: [] for closing in CLOSING.values()}
    for found in re.finditer(f"[{re.escape(''.join({*CLOSING, *CLOSING.values()}))}]", chunk):
        mark = found.group()
        if open_at.get(mark):
            open_at[mark].pop()
        elif mark in CLOSING:
            open_at[CLOSING[mark]].append(found.start())
    unclosed = [positions[0] for positions in open_at.values() if positions]
    return chunk[: min(unclosed, default=len(chunk))] or chunk


def _before_last_blank(chunk: str) -> int:
    """Return where a chunk may be cut without cutting a word or a blank line; its length where there is no blank."""
    tail = chunk.rstrip()
    if len(tail) == len(chunk):
        *_, last = chunk.split(None)[-1:] or [""]
        tail = chunk[: len(chunk) - len(last)].rstrip()
    return len(tail) or len(chunk)
