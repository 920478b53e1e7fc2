"""Sweeps strategies over a range of their thresholds: replays families of policies on a trace, and compares them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from service.evaluation.cost import CostMeter
from service.evaluation.replay import Replay, Replayer
from service.exits.assets import ModelAssets
from service.exits.declaration import Family
from service.exits.parameters import Evidences
from service.exits.policies import STRATEGIES
from service.exits.policy import ExitPolicy


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """Holds a policy, what it gives, and the seconds that it takes for all sequences, one at a time."""

    policy: ExitPolicy
    replay: Replay
    seconds: float

    @property
    def f1(self) -> float:
        """The micro-F1 x 100."""
        return 100 * self.replay.micro.f1


def families(model: ModelAssets) -> dict[str, Family]:
    """Return by key the families of all strategies that the model supports and that can be replayed."""
    return _families(model, is_replayable=True)


def families_to_run(model: ModelAssets) -> dict[str, Family]:
    """Return by key the families of all strategies that the model supports and that have to be run."""
    return _families(model, is_replayable=False)


def _families(model: ModelAssets, *, is_replayable: bool) -> dict[str, Family]:
    return {
        family.key: family
        for strategy in STRATEGIES.values()
        if strategy.is_replayable == is_replayable and strategy.lacks(model) is None
        for family in strategy.families(model)
    }


def run_family(
    family: Family, replayer: Replayer, meter: CostMeter, evidences: Evidences | None = None
) -> list[Outcome]:
    """Replay all members of a family; if `evidences` are given, they decide by them instead of their own."""
    seen = replayer.evidences(family.prototype) if evidences is None else evidences
    return [run(policy, replayer, meter, evidences) for policy in family.members(seen)]


def run(policy: ExitPolicy, replayer: Replayer, meter: CostMeter, evidences: Evidences | None = None) -> Outcome:
    """Replay one policy and add up its time; if `evidences` are given, it decides by them instead of its own."""
    replay = replayer.replay(policy, evidences)
    return Outcome(policy, replay, meter.cost(policy).of(replay))


def front(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Return the outcomes that no other one beats in both F1 and time, cheapest first."""
    kept: list[Outcome] = []
    for outcome in sorted(outcomes, key=lambda outcome: (outcome.seconds, -outcome.f1)):
        if not kept or outcome.f1 > kept[-1].f1:
            kept.append(outcome)
    return kept


def cheapest(outcomes: Sequence[Outcome], lowest_f1: float) -> Outcome:
    """Return the cheapest outcome that reaches `lowest_f1` (x 100); if none does, the one with the best F1."""
    good = [outcome for outcome in outcomes if outcome.f1 >= lowest_f1]
    if good:
        return min(good, key=lambda outcome: (outcome.seconds, -outcome.f1))
    return max(outcomes, key=lambda outcome: (outcome.f1, -outcome.seconds))
