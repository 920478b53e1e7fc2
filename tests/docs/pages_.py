"""The pages as tests read them: their links, headings, code blocks and code spans. No test lives here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^ {4}.*\n)+", re.MULTILINE)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code; `language` is empty for an indented one."""

    language: str
    text: str


class Page:
    """A Markdown file of ours."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path.relative_to(PROJECT))
        self.text = path.read_text(encoding="utf-8")

    @cached_property
    def blocks(self) -> list[Block]:
        """In their order."""
        found = [(match.start(), Block(match[1], match[2])) for match in _FENCED.finditer(self.text)]
        rest = _FENCED.sub(lambda match: re.sub(r"[^\n]", ".", match[0]), self.text)  # each stays where it is
        found += [
            (match.start(), Block("", re.sub("^ {4}", "", match[0], flags=re.M))) for match in _INDENTED.finditer(rest)
        ]
        return [block for _, block in sorted(found, key=lambda item: item[0])]

    @cached_property
    def prose(self) -> str:
        """Everything but blocks of code."""
        return _INDENTED.sub("\n", _FENCED.sub("\n", self.text))

    @property
    def spans(self) -> list[str]:
        """What stands between backticks in the prose."""
        return _SPAN.findall(self.prose)

    @property
    def links(self) -> list[str]:
        """Targets of links and pictures, as they are written."""
        return [one or other for one, other in _LINK.findall(self.prose)]

    @property
    def anchors(self) -> set[str]:
        """Of the headings, as GitHub makes them."""
        plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in _HEADING.findall(self.prose))
        return {heading.replace(" ", "-") for heading in plain}


README = Page(PROJECT / "README.md")
PAGES = [README, *(Page(path) for path in sorted((PROJECT / "docs").rglob("*.md")))]


def commands(page: Page) -> Iterator[str]:
    """Every `python -m ...` in a block of code, on one line."""
    for block in page.blocks:
        text = block.text.replace("\\\n", " ")
        yield from re.findall(r"python -m (.+)", text)
