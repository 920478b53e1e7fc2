"""Every strategy over a range of its thresholds: families of policies, and what each of them gives on a trace."""

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
    """A policy, what it gives, and the seconds that it takes for all sequences, one at a time."""

    policy: ExitPolicy
    replay: Replay
    seconds: float

    @property
    def f1(self) -> float:
        """Micro-F1 x 100."""
        return 100 * self.replay.micro.f1


def families(model: ModelAssets) -> dict[str, Family]:
    """Return by key all that a replay can sweep on a model: of every strategy that a trace suffices for."""
    return _families(model, is_replayable=True)


def families_to_run(model: ModelAssets) -> dict[str, Family]:
    """Return by key all that has to be run to be swept on a model."""
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
    """Replay all members; `evidences` in place of what they would see themselves."""
    seen = replayer.evidences(family.prototype) if evidences is None else evidences
    return [run(policy, replayer, meter, evidences) for policy in family.members(seen)]


def run(policy: ExitPolicy, replayer: Replayer, meter: CostMeter, evidences: Evidences | None = None) -> Outcome:
    """Replay one policy and add up its time."""
    replay = replayer.replay(policy, evidences)
    return Outcome(policy, replay, meter.cost(policy).of(replay))


def front(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Those that no other beats in both F1 and time, cheapest first."""
    kept: list[Outcome] = []
    for outcome in sorted(outcomes, key=lambda outcome: (outcome.seconds, -outcome.f1)):
        if not kept or outcome.f1 > kept[-1].f1:
            kept.append(outcome)
    return kept


def cheapest(outcomes: Sequence[Outcome], lowest_f1: float) -> Outcome:
    """The cheapest that reaches an F1 (x 100); where none does, the best there is."""
    good = [outcome for outcome in outcomes if outcome.f1 >= lowest_f1]
    if good:
        return min(good, key=lambda outcome: (outcome.seconds, -outcome.f1))
    return max(outcomes, key=lambda outcome: (outcome.f1, -outcome.seconds))
