"""The strategies that are run, not replayed, over a range of their parameters: what each gives, and its time."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import product

from service.data.readers import Example
from service.evaluation.run_policy import evaluate_policy, run_policy
from service.evaluation.sweep import Outcome
from service.executors.executor import Executor
from service.exits.catalog import Trained
from service.exits.policies.de3 import De3
from service.exits.policies.full_depth import FullDepth
from service.exits.policies.hashee import HashEE
from service.exits.policies.tokee import Tokee
from service.exits.policy import ExitPolicy
from service.models.store import StoredModel
from service.text.types import SequenceInput
from service.trained import trained_for

TOKEE_TAUS = (0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3, 0.4, 0.5)
WINDOWS = (1, 3, 5, 9)
DE3_TAUS = (0.02, 0.05, 0.08, 0.12, 0.16, 0.2, 0.25, 0.3, 0.35, 0.4)
WEIGHTS = (0.0, 1.0, 4.0, 1e6)  # of the distance: entropy alone, both, distance alone
TIMED, ROUNDS = 200, 3  # sequences, passes over them


def policies_to_run(trained: Trained) -> dict[str, list[ExitPolicy]]:
    """By strategy, those that a model was trained for."""
    found: dict[str, list[ExitPolicy]] = {}
    if trained.halting:
        found[Tokee.strategy] = [Tokee(tau, window) for window, tau in product(WINDOWS, TOKEE_TAUS)]
    if trained.prototypes is not None:
        pairs = product(WEIGHTS, DE3_TAUS)
        found[De3.strategy] = [De3(tau, weight, prototypes=trained.prototypes) for weight, tau in pairs]
    if trained.layers is not None:
        found[HashEE.strategy] = [HashEE(layers=trained.layers)]
    return found


def sweep_runs(
    stored: StoredModel,
    executor: Executor,
    examples: Sequence[Example],
    sequences: Sequence[SequenceInput],
    full_s: float,
) -> dict[str, list[Outcome]]:
    """Run them all; seconds are for all `sequences`, the examples' own, where full depth takes `full_s`."""
    families = policies_to_run(trained_for(stored.model))
    every = [policy for policies in families.values() for policy in policies]
    shares = time_shares(executor, every, sequences)
    outcomes: dict[str, list[Outcome]] = {}
    for strategy, policies in families.items():
        for policy in policies:
            outcome = outcome_of_run(stored, executor, examples, policy, full_s * shares[policy])
            outcomes.setdefault(strategy, []).append(outcome)
    return outcomes


def outcome_of_run(
    stored: StoredModel, executor: Executor, examples: Sequence[Example], policy: ExitPolicy, seconds: float
) -> Outcome:
    """What a policy gives on texts, and the time that it was measured to take."""
    return Outcome(policy, evaluate_policy(executor, stored.text_encoder, examples, policy).replay, seconds)


def time_shares(
    executor: Executor, policies: Iterable[ExitPolicy], sequences: Sequence[SequenceInput]
) -> Mapping[ExitPolicy, float]:
    """Each policy's time as a share of full depth's, on some of the sequences, one at a time; policies take turns."""
    some = random.Random(0).sample(sequences, min(TIMED, len(sequences)))
    full: ExitPolicy = FullDepth()
    fewest: dict[ExitPolicy, float] = {}
    for _ in range(ROUNDS):
        for policy in (full, *policies):
            started = time.perf_counter()
            for sequence in some:
                run_policy(executor, policy, [sequence])
            executor.wait()
            seconds = time.perf_counter() - started
            fewest[policy] = min(fewest.get(policy, seconds), seconds)
    return {policy: seconds / fewest[full] for policy, seconds in fewest.items()}
