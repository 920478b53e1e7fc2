"""Every strategy over a range of its thresholds: families of policies, and what each of them gives on a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from service.evaluation.cost import CostMeter
from service.evaluation.replay import Evidences, Replay, Replayer
from service.exits.consistency import CONSISTENCIES
from service.exits.policies.branchynet import BranchyNet
from service.exits.policies.budgeted import Budgeted
from service.exits.policies.gated_vote import GatedVote
from service.exits.policies.learned import Learned
from service.exits.policies.pabee import Pabee
from service.exits.policies.sentee import Sentee
from service.exits.policies.shallow_deep import ShallowDeep
from service.exits.policies.vee import Vee
from service.exits.policy import ExitPolicy
from service.exits.rule import ExitRule

NUM_TAUS = 60
GATED_TAUS = (0.01, 0.02, 0.05, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5)
GATES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)


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


@dataclass(frozen=True, slots=True)
class Family:
    """Policies that are judged by the same evidence, of every layer.

    prototype  any of them
    members    all of them, given the evidence of a trace
    """

    prototype: ExitPolicy
    members: Callable[[Evidences], Iterable[ExitPolicy]]


def families(num_layers: int, rule: ExitRule | None = None) -> dict[str, Family]:
    """By the strategy's name, and for VEE `vee/measure/pooling`; the learned rule only where there is one."""
    patiences = range(1, max(num_layers - 1, 2))  # of two layers, even patience 1 goes on to the last
    found = {
        f"vee/{measure}/{pooling}": _vee(Vee(measure, pooling, consistency.tau), patiences)
        for (measure, pooling), consistency in CONSISTENCIES.items()
    }
    for confident in (BranchyNet(), ShallowDeep(), Sentee()):
        found[confident.strategy] = _by_tau(confident)
    found["pabee"] = Family(Pabee(), lambda _: [Pabee(patience) for patience in patiences])
    found["budgeted"] = Family(Budgeted(1), lambda _: [Budgeted(layer) for layer in range(1, num_layers + 1)])
    grid = [values for values in product(GATED_TAUS, GATES, (1, 2)) if values[0] < values[1]]
    found["gated_vote"] = Family(GatedVote(), lambda _: [GatedVote(*values) for values in grid])
    if rule is not None:
        found["learned"] = _learned(Learned(rule=rule), range(max(1, num_layers - 2), num_layers))
    return found


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


def _vee(prototype: Vee, patiences: Iterable[int]) -> Family:
    def members(evidences: Evidences) -> list[ExitPolicy]:
        consistency = CONSISTENCIES[prototype.measure, prototype.pooling]
        taus = [tau for tau in _taus(evidences) if consistency.lowest <= tau <= consistency.highest]
        pairs = product(patiences, taus or [prototype.tau])
        return [replace(prototype, tau=tau, patience=patience) for patience, tau in pairs]

    return Family(prototype, members)


def _learned(prototype: Learned, deepest_exits: Iterable[int]) -> Family:
    """With the deepest early exit or without it: leaving out more was seen to fit the data that it is chosen on."""

    def members(evidences: Evidences) -> list[ExitPolicy]:
        pairs = product(deepest_exits, _taus(evidences))
        return [replace(prototype, tau=tau, deepest_exit=deepest) for deepest, tau in pairs]

    return Family(prototype, members)


def _by_tau(prototype: ExitPolicy) -> Family:
    return Family(prototype, lambda evidences: [_with(prototype, tau=tau) for tau in _taus(evidences)])


def _with(policy: ExitPolicy, **values: float) -> ExitPolicy:
    changes: Mapping[str, float] = values
    return replace(policy, **changes)


def _taus(evidences: Evidences) -> list[float]:
    """Thresholds that cut what was seen into equal shares, to four digits."""
    seen = [value for of_layer in evidences for evidence in of_layer for value in evidence]
    cuts = np.quantile(seen, np.linspace(0.01, 0.99, NUM_TAUS)).tolist() if seen else []
    return sorted({float(f"{value:.4g}") for value in cuts})
