"""What every level is worth against gold, on sentences whose right entities somebody has told.

right entities --(labelled_of)--> Labelled --(engine.labelled: a full run)--> GoldLevels --(counts)--> GoldFile
GoldKeeper, a thread: saves the counts, and tells the live policy what full depth's F1 is at least
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.engine.labelled import Labelled
from service.errors import BadInput
from service.exits.policies.full_depth import FullDepth
from service.exits.policy import ExitPolicy
from service.exits.reading import Reading
from service.files import locked, mark_of, set_aside, write_whole
from service.policy.live import LivePolicy
from service.policy.thread import LookingThread
from service.promise.gold import GoldCounts, GoldEstimate
from service.promise.scoring import LevelScorer
from service.spans.types import Entity
from service.text.types import SequenceInput

log = logging.getLogger(__name__)

PERIOD_S = 1.0  # between two looks at whether there is anything to save
PAUSE_S = 30.0  # after one that failed, for instance because the disk is full
FEWEST_SENTENCES = 100  # from which something is concluded of full depth's F1


def labelled_of(
    sequences: Sequence[SequenceInput], entities: Sequence[Entity], labels: Sequence[str]
) -> list[Labelled]:
    """Return the sentences of a text with their right entities.

    entities  of the text, each of a label in `labels`, the model's
    An entity that no span of words of one sentence is goes to the sentence that it begins in, as one that no level can
    answer.
    """
    found: list[set[tuple[int, int, int]]] = [set() for _ in sequences]
    for number, entity in enumerate(entities):
        at = _sentence_of(sequences, entity)
        first, last = _place(sequences[at].word_starts, entity.start), _place(sequences[at].word_ends, entity.end)
        if first is None or last is None or last < first:
            found[at].add((-1 - number, 0, 0))
        else:
            found[at].add((first, last + 1, 1 + labels.index(entity.label)))
    return [Labelled(sequence, frozenset(right)) for sequence, right in zip(sequences, found, strict=True)]


def _sentence_of(sequences: Sequence[SequenceInput], entity: Entity) -> int:
    """Return the sequence that answers for the word in which an entity begins; the last before it, if none does."""
    at = 0
    for index, sequence in enumerate(sequences):
        if sequence.owned[0] < sequence.num_words and sequence.word_starts[sequence.owned[0]] <= entity.start:
            at = index
    return at


def _place(offsets: Any, offset: int) -> int | None:
    """Return which word has an offset, None if none has."""
    where = (offsets == offset).nonzero()[0]
    return int(where[0]) if len(where) else None


class GoldFile:
    """Keeps counts, and nothing of a text, in a file that several processes may add to."""

    def __init__(self, folder: Path, model: str, levels: Sequence[ExitPolicy]) -> None:
        """model: name@version and checksum; counts of other weights or levels are given up for new ones."""
        self._path = folder / "feedback.json"
        self._seen: tuple[int, int] | None = None
        self._header = {"model": model, "policies": [level.to_json() for level in levels]}

    @property
    def has_changed(self) -> bool:
        """Whether it is not as `add` has left it."""
        return mark_of(self._path) != self._seen

    def add(self, counts: GoldCounts) -> GoldCounts:
        """Add to what is kept, and return the whole. Raises OSError."""
        with locked(self._path.parent):
            whole = self._load(len(self._header["policies"])).plus(counts)
            if counts.sentences:
                write_whole(self._path, json.dumps({**self._header, **whole.to_json()}) + "\n")
            self._seen = mark_of(self._path)
            return whole

    def _load(self, num_levels: int) -> GoldCounts:
        if not self._path.exists():
            return GoldCounts(num_levels)
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            if {name: kept[name] for name in self._header} == self._header:
                return GoldCounts.from_json(kept)
            why = "it is of other weights or operating points"
        except (ValueError, LookupError, TypeError, RecursionError, BadInput) as error:
            why = str(error)
        aside = set_aside(self._path)
        log.warning("feedback set aside", extra={"data": {"reason": why, "file": str(aside)}})
        return GoldCounts(num_levels)


@dataclass(frozen=True, slots=True)
class Gold:
    """What is known against gold.

    sentences  whose right entities were told, in all
    levels     by policy, full depth among them
    """

    sentences: int
    levels: Mapping[ExitPolicy, GoldEstimate]

    @property
    def full_depth(self) -> GoldEstimate:
        """What full depth is worth."""
        return self.levels[FullDepth()]


class GoldLevels:
    """Scores every level on labelled sentences. The engine's worker adds to it, and any thread may look."""

    def __init__(
        self,
        levels: Sequence[ExitPolicy],
        num_layers: int,
        folder: Path,
        model: str,
        *,
        on_sentence: Callable[[], None] = lambda: None,
    ) -> None:
        """Start without sentences; `save` takes over those of the file.

        levels       those whose words halt one by one are not scored
        folder       for the counts; model: see GoldFile
        on_sentence  called after every sentence; it must return at once
        """
        scored = (*(level for level in dict.fromkeys(levels) if level.is_replayable), FullDepth())
        self._scored = tuple(dict.fromkeys(scored))
        self._scorer = LevelScorer(self._scored, num_layers)
        self._file = GoldFile(folder, model, self._scored)
        self._on_sentence = on_sentence
        self._lock = threading.Lock()  # guards the two fields below
        self._unsaved = GoldCounts(len(self._scored))
        self._saved = GoldCounts(len(self._scored))

    def add(self, readings: Sequence[Reading], labelled: Labelled) -> None:
        """Count a labelled sentence that was run to full depth."""
        scores = self._scorer.score(readings, [labelled.sequence.owned], [labelled.right])
        with self._lock:
            self._unsaved.add(scores)
        self._on_sentence()

    def save(self) -> None:
        """Add what is new to the file, and take over what other processes have added. Raises OSError; then all stays.

        One thread alone may call it.
        """
        with self._lock:
            new, before = self._unsaved, self._saved
            if not new.sentences and not self._file.has_changed:
                return
            self._saved, self._unsaved = before.plus(new), GoldCounts(len(self._scored))
        try:
            whole = self._file.add(new)
        except OSError:
            with self._lock:
                self._saved, self._unsaved = before, new.plus(self._unsaved)
            raise
        with self._lock:
            self._saved = whole

    @property
    def sentences(self) -> int:
        """How many have been counted."""
        with self._lock:
            return self._saved.sentences + self._unsaved.sentences

    def f1(self, policy: ExitPolicy) -> float | None:
        """Return what a level is worth, a fraction; None for one that is not scored, or before an entity was seen."""
        if policy not in self._scored:
            return None
        with self._lock:
            return self._saved.plus(self._unsaved).f1(self._scored.index(policy))

    def gold(self) -> Gold:
        """Return what every level is worth."""
        with self._lock:
            counts = self._saved.plus(self._unsaved)
        return Gold(counts.sentences, dict(zip(self._scored, counts.estimates(), strict=True)))


class GoldKeeper(LookingThread):
    """Saves the counts once a second, and tells the live policy what full depth's F1 is at least."""

    def __init__(self, live: LivePolicy, levels: GoldLevels) -> None:
        failure = "the counts of feedback could not be saved"
        super().__init__("gold-keeper", period_s=PERIOD_S, pause_s=PAUSE_S, failure=failure)
        self._live = live
        self._levels = levels
        self._told = 0  # sentences, of which the live policy knows

    def close(self) -> None:
        """End the thread, and save what is left."""
        super().close()
        self._try_to_look()

    def look(self) -> None:
        """Save, and tell what is new; at the start, what was counted before. Raises OSError."""
        self._levels.save()
        if self._levels.sentences == self._told:
            return
        found = self._levels.gold()
        self._told = found.sentences
        least = round(100 * found.full_depth.f1_interval[0], 2)
        self._live.set_gold_f1(least if found.sentences >= FEWEST_SENTENCES else None)
