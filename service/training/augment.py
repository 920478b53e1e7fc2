"""Changes annotated texts as the world does: titles, casing, typos, mark-up, lists. Gold entities move with the words.

Every function takes tokens and returns new ones; what a recipe asks for is drawn by `Augmenter`.
"""

from __future__ import annotations

import random
import re
import reprlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from service.data.readers import Example, WordSpan, example_of_words
from service.errors import DataRefused
from service.training.phrases import COMMON_TITLES, FORMS, INITIAL_STOPS, KEYS, MARKS, PHRASES, SYMBOLS, TITLES
from service.training.recipe import Augmentation

LONGEST_JOINED = 128  # words
TYPO_SHARE = 0.05  # of the words of a text with typos
_FIRST = 0.3  # chance that a name which may be changed in a text is left as it is

# Capitalised words of letters; a full stop only behind a short word: `Jr.`, `U.S.`, but not the end of a sentence
_NAME = re.compile(r"(?=.{3})(?:[A-ZÀ-Þ](?:[^\W\d_]|['’-](?=\w))*+(?:(?<!\w{4})\.)?(?:[A-Z]\.)*(?: (?=\w)|$))+")

Names = Mapping[str, Sequence[tuple[str, ...]]]  # names by label, as words
Edit = tuple[int, int, Sequence[str]]  # words [first, last) and what takes their place


@dataclass(frozen=True, slots=True)
class Tokens:
    """Holds a text as words, with its gold entities and ignored stretches by word."""

    words: tuple[str, ...]
    spans: tuple[WordSpan, ...]
    ignored: tuple[tuple[int, int], ...] = ()
    labels: frozenset[str] | None = None

    @classmethod
    def of(cls, example: Example) -> Tokens:
        """Cut an example at its blanks, between which readers put its words. Raises DataRefused if that cuts no entity.

        A text that was read by character may have such entities.
        """
        words = example.text.split(" ")
        starts, ends, position = {}, {}, 0
        for index, word in enumerate(words):
            starts[position], ends[position + len(word)] = index, index + 1
            position += len(word) + 1
        try:
            spans = tuple((starts[e.start], ends[e.end], e.label) for e in example.entities)
            ignored = tuple((starts[start], ends[end]) for start, end in example.annotation.ignored)
        except KeyError as error:
            raise DataRefused(
                f"{reprlib.repr(example.text)} has an entity that does not end at a blank; "
                'augmentation, several corpora and gather need texts as words ("tokens")'
            ) from error
        return cls(tuple(words), spans, ignored, example.annotation.labels)

    def example(self) -> Example:
        """Return the text again."""
        return example_of_words(self.words, self.spans, self.ignored, self.labels)

    def edited(self, edits: Sequence[Edit]) -> Tokens:
        """Return the tokens with words replaced, inserted (first == last) or left out; edits do not overlap.

        What is inserted at the edge of an entity stays outside of it. An entity of which no word is left is left out.
        """
        if not edits:
            return self
        edits = sorted(edits, key=lambda edit: edit[:2])
        words: list[str] = []
        position = 0
        for first, last, new in edits:
            words += [*self.words[position:first], *new]
            position = last
        words += self.words[position:]

        def moved(boundary: int, *, is_end: bool) -> int:
            return boundary + sum(
                len(new) - (last - first)
                for first, last, new in edits
                if last < boundary or (last == boundary and (first < last or not is_end))
            )

        def both(first: int, last: int) -> tuple[int, int]:
            return moved(first, is_end=False), moved(last, is_end=True)

        spans = [(*both(first, last), label) for first, last, label in self.spans]
        ignored = [both(*stretch) for stretch in self.ignored]
        return replace(
            self,
            words=tuple(words),
            spans=tuple(span for span in spans if span[0] < span[1]),
            ignored=tuple(stretch for stretch in ignored if stretch[0] < stretch[1]),
        )

    def respelled(self, spell: Callable[[str], str]) -> Tokens:
        """Return the tokens with every word spelled anew."""
        return replace(self, words=tuple(spell(word) for word in self.words))


def collect_names(examples: Sequence[Example]) -> Names:
    """Return the names of every label that look like names and mostly have that label."""
    labels: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for example in examples:
        for entity in example.entities:
            labels[tuple(example.text[entity.start : entity.end].split())][entity.label] += 1
    names: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for words, counts in labels.items():
        label, count = counts.most_common(1)[0]
        if count >= 0.8 * sum(counts.values()) and len(words) <= 4 and _NAME.fullmatch(" ".join(words)):
            names[label].append(words)
    return {label: tuple(found) for label, found in sorted(names.items())}


def joined(parts: Sequence[Tokens]) -> Tokens:
    """Join texts in which the same labels are annotated into one."""
    words: list[str] = []
    spans: list[WordSpan] = []
    ignored: list[tuple[int, int]] = []
    for part in parts:
        offset = len(words)
        words += part.words
        spans += [(first + offset, last + offset, label) for first, last, label in part.spans]
        ignored += [(first + offset, last + offset) for first, last in part.ignored]
    return Tokens(tuple(words), tuple(spans), tuple(ignored), parts[0].labels)


def with_other_names(tokens: Tokens, names: Names, draw: random.Random) -> Tokens:
    """Put names in place of others of the same label; a name in lower case stays in lower case."""
    edits: list[Edit] = []
    for first, last, label in _apart(tokens.spans):
        if label in names and draw.random() > _FIRST:
            name = draw.choice(names[label])
            old = "".join(tokens.words[first:last])
            edits.append((first, last, [word.lower() for word in name] if old.islower() else name))
    return tokens.edited(edits)


def titles_outside(tokens: Tokens) -> Tokens:
    """Return the tokens with persons that begin behind their common titles, which most corpora leave outside."""
    spans = []
    for first, last, label in tokens.spans:
        while label == "PER" and last - first > 1 and tokens.words[first].rstrip(".") in COMMON_TITLES:
            first += 1
        spans.append((first, last, label))
    return replace(tokens, spans=tuple(spans))


def with_titles(tokens: Tokens, draw: random.Random) -> Tokens:
    """Put titles before persons, and leave half of those their last name only."""
    edits: list[Edit] = []
    for first, last, label in _apart(tokens.spans):
        before = tokens.words[first - 1] if first else ""
        if label != "PER" or not tokens.words[first][:1].isupper() or before[:1] in "@#" * bool(before):
            continue
        if before.rstrip(".") in TITLES or before == "." or draw.random() < _FIRST:
            continue
        title = draw.choice(COMMON_TITLES if draw.random() < 0.7 else TITLES)
        edits.append((first, first, [title if len(title) > 5 or draw.random() < 0.3 else f"{title}."]))
        if last - first in (2, 3) and draw.random() < 0.6:
            edits.append((first, last - 1, []))
    return tokens.edited(edits)


def with_initials(tokens: Tokens, draw: random.Random) -> Tokens:
    """Cut first names to initials, with or without a full stop, or put an initial into the middle."""
    edits: list[Edit] = []
    for first, last, label in _apart(tokens.spans):
        if label != "PER" or last - first not in (2, 3) or draw.random() < _FIRST:
            continue
        stop = draw.choice(INITIAL_STOPS)
        if draw.random() < 0.6:
            initials = [f"{word[:1].upper()}{stop}" for word in tokens.words[first : last - 1]]
            if draw.random() < 0.3:
                initials.append(f"{draw.choice('ABCDEFGHJKLMNPRSTW')}{stop}")
            edits.append((first, last - 1, initials))
        else:
            edits.append((first + 1, first + 1, [f"{draw.choice('ABCDEFGHJKLMNPRSTW')}{stop}"]))
    return tokens.edited(edits)


def without_punctuation(tokens: Tokens) -> Tokens:
    """Leave out the words outside of entities that have neither letter nor digit."""
    inside = {index for first, last, _ in tokens.spans for index in range(first, last)}
    edits: list[Edit] = [
        (index, index + 1, ())
        for index, word in enumerate(tokens.words)
        if index not in inside and word.isascii() and not any(character.isalnum() for character in word)
    ]
    return tokens if len(edits) == len(tokens.words) else tokens.edited(edits)


def with_typos(tokens: Tokens, draw: random.Random) -> Tokens:
    """Misspell some of the longer words: two letters swapped, one dropped, or one doubled."""

    def spell(word: str) -> str:
        if len(word) < 4 or not word.isalpha() or draw.random() > TYPO_SHARE:
            return word
        at = draw.randrange(1, len(word) - 1)
        return draw.choice(
            (
                word[:at] + word[at + 1] + word[at] + word[at + 2 :],
                word[:at] + word[at + 1 :],
                word[: at + 1] + word[at:],
            )
        )

    return tokens.respelled(spell)


def with_marks(tokens: Tokens, draw: random.Random) -> Tokens:
    """Put some names, and some other words, between the marks of mark-up."""
    places = [(first, last) for first, last, _ in _apart(tokens.spans) if draw.random() > _FIRST]
    if not places or draw.random() < 0.3:
        inside = {index for first, last, _ in tokens.spans for index in range(first, last)}
        outside = [index for index in range(len(tokens.words)) if index not in inside]
        places += [(index, index + 1) for index in draw.sample(outside, min(1, len(outside)))]
    edits: list[Edit] = []
    opening, closing = draw.choice(MARKS)
    for first, last in places:
        edits += [(first, first, opening.split()), (last, last, closing.split())]
    return tokens.edited(edits)


def with_symbols(tokens: Tokens, draw: random.Random) -> Tokens:
    """Put symbols before or after some names, or at the end of the text."""
    edits: list[Edit] = []
    for first, last, _ in _apart(tokens.spans):
        if draw.random() > _FIRST:
            at = first if draw.random() < 0.4 else last
            edits.append((at, at, [draw.choice(SYMBOLS) * draw.choice((1, 1, 1, 2, 3))]))
    if not edits:
        edits.append((len(tokens.words), len(tokens.words), [draw.choice(SYMBOLS)]))
    return tokens.edited(edits)


def _apart(spans: Sequence[WordSpan]) -> list[WordSpan]:
    """Return the spans that share no word with an earlier one."""
    apart: list[WordSpan] = []
    for span in sorted(spans, key=lambda span: (span[0], -span[1])):
        if not apart or span[0] >= apart[-1][1]:
            apart.append(span)
    return apart


def item(names: Names, draw: random.Random) -> Tokens:
    """Make a short text of names: an entry of a list, a line of a form, a short phrase."""
    kind = draw.random()
    if kind < 0.35:
        form = draw.choice(FORMS)
    elif kind < 0.55:
        label = draw.choice(sorted(KEYS.keys() & names.keys()) or sorted(names))
        form = f"{draw.choice(KEYS.get(label, ('Name',)))} : {{{label}}}"
    else:
        form = draw.choice(PHRASES)
    words: list[str] = []
    spans: list[WordSpan] = []
    for part in form.split():
        label = part.strip("{}")
        if label == "ANY":
            label = draw.choice(sorted(names.keys() - {"MISC"}) or sorted(names))
        if part.startswith("{") and label in names:
            name = draw.choice(names[label])
            spans.append((len(words), len(words) + len(name), label))
            words += name
        elif part == "{NUMBER}":
            words.append(str(draw.choice((draw.randrange(10), draw.randrange(100), draw.randrange(1900, 2030)))))
        elif not part.startswith("{"):
            words.append(part)
    return Tokens(tuple(words), tuple(spans))


class Augmenter:
    """Changes texts as often as a recipe says."""

    def __init__(self, rates: Augmentation, names: Names) -> None:
        self._rates, self._names = rates, names

    def __call__(self, texts: Sequence[Tokens], draw: random.Random) -> list[tuple[Tokens, bool]]:
        """Return the texts of one corpus, changed, and whether each is to be split into sentences."""
        rates = self._rates
        changed: list[tuple[Tokens, bool]] = []
        waiting: list[Tokens] = []
        wanted = 0
        for text in texts:
            if draw.random() < rates.joined:
                if not waiting:
                    wanted = draw.randint(2, LONGEST_JOINED)
                waiting.append(self._changed_names(text, draw))
                if sum(len(part.words) for part in waiting) >= wanted:
                    changed.append((self._changed(joined(waiting), draw), False))
                    waiting = []
            else:
                changed.append((self._changed(self._changed_names(text, draw), draw), True))
            if draw.random() < rates.items and self._names:
                changed.append((self._changed_case(item(self._names, draw), draw), True))
        if waiting:
            changed.append((self._changed(joined(waiting), draw), False))
        return changed

    def _changed_names(self, tokens: Tokens, draw: random.Random) -> Tokens:
        if draw.random() < self._rates.names:
            tokens = with_other_names(tokens, self._names, draw)
        if draw.random() < self._rates.initials:
            tokens = with_initials(tokens, draw)
        if draw.random() < self._rates.titles:
            tokens = with_titles(tokens, draw)
        return tokens

    def _changed(self, tokens: Tokens, draw: random.Random) -> Tokens:
        rates = self._rates
        if draw.random() < rates.typos:
            tokens = with_typos(tokens, draw)
        if draw.random() < rates.punctuation:
            tokens = without_punctuation(tokens)
        if draw.random() < rates.markup:
            tokens = with_marks(tokens, draw)
        if draw.random() < rates.symbols:
            tokens = with_symbols(tokens, draw)
        return self._changed_case(tokens, draw)

    def _changed_case(self, tokens: Tokens, draw: random.Random) -> Tokens:
        rates, place = self._rates, draw.random()
        for rate, spell in ((rates.lower, str.lower), (rates.upper, str.upper), (rates.title_case, str.title)):
            if place < rate:
                return tokens.respelled(spell)
            place -= rate
        return tokens
