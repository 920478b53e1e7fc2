"""Works out what the tags of a token classifier mean: which one is none, which begin an entity, and of which label.

Pure bookkeeping over names; what is computed of their probabilities lives in `classifier`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from service.errors import ModelRefused

NONE_NAMES = ("O", "OUT", "OUTSIDE", "NONE", "NULL", "0", "_")  # what plain tags call no entity, in any case

_PREFIXED = re.compile(r"(?P<prefix>[BIESLUM])[-_](?P<label>.+)", re.DOTALL)
_SUFFIXED = re.compile(r".+[-_][BIESLUM]", re.DOTALL)
_UNNAMED = re.compile(r"LABEL_\d+")
_BEGINS = frozenset("BSU")  # of BIO, BIOES, BMES and BILOU; the others go on


class Tag(NamedTuple):
    """Says what one tag means.

    label   an index into the scheme's labels, from 1; 0: no entity
    begins  whether an entity always begins here; otherwise one does only after another label, or after none
    """

    label: int
    begins: bool


@dataclass(frozen=True, slots=True)
class TagScheme:
    """Holds what the tags of a token classifier mean, in the order of its outputs, and its labels, sorted.

    An entity is a run of tags of one label, and a tag that begins one cuts the run: so a Transformers pipeline reads
    BIO, IO and plain tags. Of BIOES (also BMES and BILOU) a pipeline takes every prefix but B and I for a part of the
    label; here E, L and M go on like I, and S and U begin like B.
    """

    labels: tuple[str, ...]
    tags: tuple[Tag, ...]

    @classmethod
    def read(cls, names: Sequence[str]) -> TagScheme:
        """Work out the meaning of tags from their names, by output (`id2label`). Several may have one name.

        Tags have prefixes (`B-PER`, `B_PER`), or are plain labels. No entity is the one tag without a prefix where the
        others have one, and otherwise one of NONE_NAMES.

        Raises ModelRefused, which names them, for tags without names (LABEL_0), without one for no entity, with and
        without prefixes, or with their prefix at the end.
        """
        if unnamed := [name for name in names if _UNNAMED.fullmatch(name)]:
            raise _refusal(unnamed, "have no names; expected the names of its tags", "write them into it")
        none = _none_of(names)
        others = [name for name in names if name != none]
        if not others:
            raise _refusal(names, "name no label; expected tags such as B-PER, I-PER and O", "write them into it")
        if all(_SUFFIXED.fullmatch(name) and not _PREFIXED.fullmatch(name) for name in others):
            raise _refusal(others, "end with a prefix; expected it in front, as in B-PER", "turn them round")
        parts = [_parted(name) if _has_prefixes(others) else ("", name) for name in others]
        labels = tuple(sorted({label for _, label in parts}))
        meaning = {
            name: Tag(labels.index(label) + 1, prefix in _BEGINS)
            for name, (prefix, label) in zip(others, parts, strict=True)
        }
        return cls(labels, tuple(meaning.get(name, Tag(0, False)) for name in names))

    @property
    def names(self) -> tuple[str, ...]:
        """The tags as `O`, `B-<label>` and `I-<label>`, which a Transformers pipeline groups as they are meant."""
        return tuple(
            f"{'B' if tag.begins else 'I'}-{self.labels[tag.label - 1]}" if tag.label else "O" for tag in self.tags
        )

    def of_labels(self, labels: Sequence[str]) -> TagScheme:
        """Return the scheme with `labels` in their place and order; the tags of any other label mean no entity.

        Raises ModelRefused for labels that no tag has.
        """
        if unknown := [label for label in labels if label not in self.labels]:
            raise ModelRefused(f"the token classifier has no tags of {unknown}; its labels are {list(self.labels)}")
        places = [0, *(labels.index(label) + 1 if label in labels else 0 for label in self.labels)]
        tags = (Tag(places[tag.label], tag.begins and places[tag.label] > 0) for tag in self.tags)
        return TagScheme(tuple(labels), tuple(tags))


def _none_of(names: Sequence[str]) -> str:
    if "O" in names:
        return "O"
    plain = sorted({name for name in names if not _PREFIXED.fullmatch(name)})
    if len(plain) == 1 and _has_prefixes([name for name in names if name != plain[0]]):
        return plain[0]
    found = sorted({name for name in names if name.upper() in NONE_NAMES})
    if len(found) != 1:
        raise _refusal(names, f"have none that means no entity; expected one of {list(NONE_NAMES)}", "call it O")
    return found[0]


def _has_prefixes(names: Sequence[str]) -> bool:
    """Say whether tags have prefixes: B- and I- alone tell; plain labels may be called E-MAIL."""
    return any(name[:2] in ("B-", "I-", "B_", "I_") for name in names)


def _parted(name: str) -> tuple[str, str]:
    found = _PREFIXED.fullmatch(name)
    if found is None:
        raise _refusal([name], "have no prefix, and others have one", "call what is no entity O")
    return found["prefix"], found["label"]


def _refusal(names: Sequence[str], wrong: str, advice: str) -> ModelRefused:
    shown = ", ".join(map(repr, names[:10])) + (", ..." if len(names) > 10 else "")
    return ModelRefused(f"the tags {shown} of the checkpoint {wrong}; {advice}, under id2label in its config.json")
