"""Plays streams of sentences from traces through the keeper of promises, its certificates and its estimates.

The model does not run, and time does not pass: a trace tells what every level answers, and a sentence comes every
1 / SENTENCES_PER_S seconds of a clock of its own. Everything that decides is the server's own code.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.promise_seeds import SeededLevels
from service.evaluation.replay import Replayer
from service.evaluation.trace import Trace
from service.exits.policies.full_depth import FullDepth
from service.exits.policy import ExitPolicy
from service.levels.keeper import PromiseKeeper
from service.levels.on_traffic import TrafficLevels
from service.policy.goals import Goals
from service.policy.live import LivePolicy
from service.policy.promised import PromiseGoal
from service.policy.store import StateFolder
from service.promise.scoring import LevelScorer, Scores
from service.spans.types import DoubleArray, IntArray

FRACTION = 0.02  # of the sentences is sampled
SENTENCES_PER_S = 20.0
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """Holds the sentences of a corpus, scored for some policies; the last of them is full depth.

    scores  (sentences, policies)
    gold    (policies, 3) entities annotated, found and found correctly in the whole corpus
    """

    name: str
    policies: tuple[ExitPolicy, ...]
    scores: Scores
    gold: IntArray

    @classmethod
    def of(cls, trace: Trace, policies: Sequence[ExitPolicy]) -> Material:
        """Score a trace for policies by sentence, and for full depth."""
        scored = (*dict.fromkeys(policies), FullDepth())
        scores = LevelScorer(scored, trace.num_layers).score(trace.readings, [s.owned for s in trace.sequences])
        replayer = Replayer(trace)
        counts = [replayer.replay(policy).micro for policy in scored]
        return cls(trace.data, scored, scores, np.array([(one.gold, one.found, one.correct) for one in counts]))

    @property
    def disagreement(self) -> DoubleArray:
        """1 - F1 against full depth of every policy on the whole corpus: (policies,)."""
        found: DoubleArray = self.scores.errors.sum(axis=0) / np.maximum(self.scores.answered.sum(axis=0), 1)
        return found

    @property
    def layers(self) -> DoubleArray:
        """The average exit layer of every policy on the whole corpus: (policies,)."""
        mean: DoubleArray = self.scores.exit_layers.mean(axis=0)
        return mean

    def gold_loss(self, shares: DoubleArray) -> float:
        """Return F1 x 100 against gold below full depth, where each policy serves such a share: (policies,)."""
        full = self.gold[-1]
        return _gold_f1(full) - _gold_f1(shares @ self.gold)


@dataclass(frozen=True, slots=True, eq=False)
class Played:
    """Holds how a stream was served.

    rows     (sentences,) which sentence of its material it was
    served   (sentences,) the policy that served it, an index into the material's
    sampled  (samples,) the places in the stream of the sampled sentences, ascending
    moves    of the policy
    alarms   that were raised
    """

    rows: IntArray
    served: IntArray
    sampled: IntArray
    moves: int
    alarms: int


def play(
    goals: Goals, goal: PromiseGoal, parts: Sequence[tuple[Material, int]], seed: int, *, is_seeded: bool = False
) -> Played:
    """Serve so many sentences of each of some materials, one after another, under a promise.

    is_seeded: whether the capital is spread by what the first material itself shows, the best seed that there could be

    Sentences are drawn with replacement. The keeper looks after every sample, since nothing else gives it anything to
    see, and not ten times a second.
    """
    draw = np.random.default_rng(seed)
    rows = np.concatenate([draw.integers(len(part.scores.exit_layers), size=length) for part, length in parts])
    part_of = np.repeat(np.arange(len(parts)), [length for _, length in parts])
    sampled = np.flatnonzero(draw.random(len(rows)) < FRACTION)
    served = np.empty(len(rows), dtype=np.int64)
    place = {policy: index for index, policy in enumerate(parts[0][0].policies)}
    now_s = 0.0

    def now() -> datetime:
        return START + timedelta(seconds=now_s)

    with tempfile.TemporaryDirectory() as folder:
        live = LivePolicy(goals, StateFolder(Path(folder), goals.model), now=now)
        to_certify = live.levels_to_certify()
        columns = [place[level] for level in to_certify]
        how: dict[str, Any] = {"num_layers": goals.catalog.model.num_layers, "now": now}
        if is_seeded:
            seeds = _of_sentences(parts[0][0].scores, slice(None), columns)
            levels: TrafficLevels = SeededLevels(seeds, to_certify, to_certify, **how)
        else:
            levels = TrafficLevels(to_certify, to_certify, **how)
        keeper = PromiseKeeper(live, levels, lambda: now_s)
        live.change({"max_disagreement": goal.max_disagreement, "confidence": goal.confidence}, source="api")
        keeper.look()
        begun, first = 0, live.current.version
        for at in sampled.tolist():
            served[begun : at + 1] = place[live.current.policy]
            begun, now_s = at + 1, at / SENTENCES_PER_S
            row = int(rows[at])
            scores = _of_sentences(parts[part_of[at]][0].scores, slice(row, row + 1), columns)
            levels.take(scores, 1.0, 1.0)
            keeper.look()
        served[begun:] = place[live.current.policy]
        standing = levels.standing()
        return Played(rows, served, sampled, live.current.version - first, standing.alarms if standing else 0)


def _of_sentences(scores: Scores, rows: slice, columns: Sequence[int]) -> Scores:
    """Return the scores of some sentences, for some of the policies."""
    parts = (scores.exit_layers, scores.true_positives, scores.false_positives, scores.false_negatives)
    return Scores(*(part[rows, columns] for part in parts))


def _gold_f1(counts: IntArray | DoubleArray) -> float:
    gold, found, correct = counts.tolist()
    return float(200 * correct / max(gold + found, 1))
