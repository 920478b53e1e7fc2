"""Finds where the layout of a text ends an item: a line, a table cell, a list entry. Sentences are cut in `sentences`.

A line break, a tab or a cell's bar ends what stands before it, so that no entity runs across; only the breaks of
hard-wrapped prose are blanks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

LONG_LINE = 40  # characters from which a line of several words may be one of a wrapped paragraph
FEWEST_WORDS = 3  # of a line of prose
MOST_LOOKED_AT = 200  # characters of a line that the wrapping rules look at, from either end

_LINE = re.compile(r"[^\n\r\v\f\x1c-\x1e\x85\u2028\u2029]*(?:\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029])?")
_CELL = re.compile(r"(?<=\S)(?:[ ]*+\t\s*+|[ ]\|[ ]++|[ ]{4,}+)(?=\S)")  # possessive, so that it stays linear
_BULLET = re.compile(r"\s*(?:[-*+#>•‣◦▪●–—]|\(?\d{1,3}[.)]|\(?[a-zA-Z][.)])\s")
_LABEL = re.compile(r"\s*\w[\w ./-]{0,30}:(?:\s|$)")  # `Name: John Smith`, `To:`
_TERMINAL = re.compile(r"[.!?…:;][\"'”’»)\]]*$")

# After these, a name or a phrase is still to come, so that the line goes on in the next one.
_OPEN_WORDS = frozenset(
    [
        "a",
        "an",
        "the",
        "of",
        "in",
        "on",
        "at",
        "to",
        "from",
        "by",
        "for",
        "with",
        "and",
        "or",
        "but",
        "nor",
        "as",
        "than",
        "that",
        "which",
        "who",
        "whose",
        "into",
        "onto",
        "over",
        "under",
        "between",
        "near",
        "against",
        "about",
        "after",
        "before",
        "during",
        "through",
        "is",
        "are",
        "was",
        "were",
        "be",
        "been",
        "has",
        "have",
        "had",
        "will",
        "would",
        "can",
        "could",
        "may",
        "might",
        "must",
        "shall",
        "should",
        "do",
        "does",
        "did",
        "not",
        "his",
        "her",
        "its",
        "their",
        "our",
        "my",
        "your",
        "this",
        "these",
        "those",
        "new",
        "san",
        "santa",
        "los",
        "las",
        "el",
        "la",
        "le",
        "de",
        "van",
        "von",
        "der",
        "den",
        "del",
        "saint",
        "mount",
        "fort",
        "lake",
        "port",
        "north",
        "south",
        "east",
        "west",
    ]
)
_OPEN_TITLE = re.compile(
    r"(?:^|\s)(?:Mr|Mrs|Ms|Dr|Prof|St|Ft|Mt|Gen|Col|Capt|Lt|Sgt|Sen|Rep|Gov|Rev|Hon|[A-Z])\.$", re.IGNORECASE
)


def item_ends(text: str) -> list[int]:
    """Return, in order, the character offsets at which an item of the layout ends and the next one begins.

    A blank line always ends an item, and so do a tab and a bar between two cells. A single line break does unless the
    two lines read as wrapped prose. The time is linear in the length of the text.
    """
    if not _LAYOUT.search(text):
        return []
    ends: list[int] = []
    for paragraph in _paragraphs(text):
        width = max(len(line) for _, _, line in paragraph)
        finished = bool(_TERMINAL.search(paragraph[-1][2]))
        for index, (start, end, line) in enumerate(paragraph):
            ends += [start + cell.end() for cell in _CELL.finditer(text[start:end])]
            is_last = index + 1 == len(paragraph)
            if is_last or not _goes_on(line, paragraph[index + 1][2], width, finished):
                ends.append(end)
    if ends and ends[-1] == len(text):
        ends.pop()
    return ends


_LAYOUT = re.compile(r"[\t\n\r\v\f\x1c-\x1e\x85\u2028\u2029]|[ ]\|[ ]|[ ]{4}")

Line = tuple[int, int, str]  # where it starts, where its break ends, and what stands between, without blanks around it


def _paragraphs(text: str) -> Iterator[list[Line]]:
    """Yield the runs of lines that are not blank, without the blank lines between them."""
    paragraph: list[Line] = []
    for found in _LINE.finditer(text):
        line = found.group().strip()
        if line:
            paragraph.append((found.start(), found.end(), line))
        elif paragraph:
            yield paragraph
            paragraph = []
    if paragraph:
        yield paragraph


def _goes_on(line: str, following: str, width: int, finished: bool) -> bool:
    """Say whether the break between two lines is one of wrapped prose.

    width     characters of the longest line of the paragraph
    finished  whether the paragraph's last line ends as a sentence does
    """
    line, following = line[-MOST_LOOKED_AT:], following[:MOST_LOOKED_AT]
    if _BULLET.match(following) or _LABEL.match(following) or "\t" in line or "\t" in following or "|" in line:
        return False
    words = line.split()
    if len(words) > 1 and (words[-1].lower() in _OPEN_WORDS or _OPEN_TITLE.search(line)):
        return True
    is_prose = len(words) >= FEWEST_WORDS and _share_of_lower(words) >= 1 / 3
    is_full = len(line) + 1 + len(following.split(None, 1)[0]) > min(width, MOST_LOOKED_AT)
    return is_prose and ((is_full and (len(line) >= LONG_LINE or finished)) or (finished and following[0].islower()))


def _share_of_lower(words: Sequence[str]) -> float:
    return sum(word[0].islower() for word in words) / len(words)
