"""Texts of our own with known names, for `benchmarks.domains`: lists, forms, symbols, clauses without punctuation."""

from __future__ import annotations

import random
from collections.abc import Sequence

from service.data.readers import Example
from service.spans.score import Annotation
from service.spans.types import Entity

_PERSONS = """
Maria Fernandez, Thomas Becker, Aisha Rahman, David Cohen, Emily Watson, Hiroshi Tanaka, Olga Petrova, James
Carter, Fatima Hassan, Peter Novak, Laura Rossi, Michael Brown, Priya Sharma, Daniel Kim, Sofia Andersson,
Robert Wilson, Chloe Martin, Ahmed Khalil, Ingrid Larsen, George Papadopoulos
"""
_PLACES = """
London, Paris, Berlin, New York, Tokyo, Madrid, Rome, Vienna, Chicago, San Francisco, Toronto, Sydney, Cairo,
Mumbai, Kenya, Germany, Brazil, Los Angeles, Portugal, Texas
"""
_FIRMS = """
Microsoft, Google, Siemens, Toyota, Goldman Sachs, Deutsche Bank, Samsung, British Airways, General Motors,
Nokia, Harvard University, Manchester United, Reuters, United Nations, Boeing, Intel, Volkswagen, Lufthansa,
Sony, NATO
"""
PERSONS = [" ".join(name.split()) for name in _PERSONS.split(",")]
PLACES = [" ".join(name.split()) for name in _PLACES.split(",")]
FIRMS = [" ".join(name.split()) for name in _FIRMS.split(",")]
NAMES = [(name, label) for label, names in (("PER", PERSONS), ("LOC", PLACES), ("ORG", FIRMS)) for name in names]
SYMBOLS = "😍🔥🎉❤☕✈⚽→←⇒•·™®©★☆°€£№✓♥▶■"
CLAUSES = (
    "{PER} lives in {LOC} and works for {ORG}",
    "yesterday {PER} flew from {LOC} to {LOC}",
    "{ORG} opened an office in {LOC} and {PER} runs it",
    "we met {PER} and {PER} at the station in {LOC}",
    "then {ORG} sold its plant in {LOC} to {ORG}",
)
SHORT = ("I love {}{}", "{}{} is great", "more about {}{} today", "thanks to {}{} again")  # any name fits into these


class Writer:
    """Writes a text piece by piece, and notes where its names stand."""

    def __init__(self) -> None:
        self._text = ""
        self._entities: list[Entity] = []

    def add(self, text: str, label: str = "") -> Writer:
        """Add some text; with a label it is a name."""
        if label:
            self._entities.append(Entity(len(self._text), len(self._text) + len(text), label))
        self._text += text
        return self

    def example(self) -> Example:
        """Return the text with its names, of which persons, organisations and places are all marked."""
        return Example(self._text, tuple(self._entities), Annotation(frozenset({"PER", "ORG", "LOC"})))


def probes() -> dict[str, list[Example]]:
    """Return by name the texts of every probe."""
    found = {
        f"list by {name}": _lists(separator, bullet)
        for name, separator, bullet in (
            ("line", "\n", ""),
            ("CRLF", "\r\n", ""),
            ("tab", "\t", ""),
            ("bullets", "\n", "- "),
            ("numbers", "\n", "{}. "),
            ("blank line", "\n\n", ""),
            ("bar", " | ", ""),
        )
    }
    found["form"] = [
        Writer().add("Name: ").add(person, "PER").add("\nCity: ").add(place, "LOC").add("\nCompany: ").add(firm, "ORG")
        .example()
        for person, place, firm in zip(PERSONS, PLACES, FIRMS, strict=True)
    ]  # fmt: skip
    found["clauses without punctuation"] = [_clauses(seed, 20) for seed in range(5)]
    found |= {f"symbol {symbol}": _symbol(symbol) for symbol in SYMBOLS}
    return found


def _lists(separator: str, bullet: str) -> list[Example]:
    """Return the names in lists of ten, shuffled."""
    names = list(NAMES)
    random.Random(1).shuffle(names)
    examples = []
    for start in range(0, len(names), 10):
        writer = Writer()
        for number, (name, label) in enumerate(names[start : start + 10], 1):
            writer.add((separator if number > 1 else "") + bullet.format(number)).add(name, label)
        examples.append(writer.example())
    return examples


def _clauses(seed: int, count: int) -> Example:
    draw = random.Random(seed)
    names: dict[str, Sequence[str]] = {"PER": PERSONS, "LOC": PLACES, "ORG": FIRMS}
    writer = Writer()
    for index in range(count):
        for number, word in enumerate(CLAUSES[index % len(CLAUSES)].split()):
            writer.add(" " if number or index else "")
            label = word.strip("{}")
            writer.add(draw.choice(names[label]), label) if label in names else writer.add(word)
    return writer.example()


def _symbol(symbol: str) -> list[Example]:
    """Return twenty short texts with the symbol beside a name, half of them before it."""
    examples = []
    names = random.Random(1).sample(NAMES, 20)
    for index, (name, label) in enumerate(names):
        before, after = SHORT[index % len(SHORT)].split("{}{}")
        writer = Writer().add(before)
        writer = writer.add(symbol).add(name, label) if index % 2 else writer.add(name, label).add(symbol)
        examples.append(writer.add(after).example())
    return examples
