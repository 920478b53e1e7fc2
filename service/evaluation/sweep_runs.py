"""The strategies that are run, not replayed, over a range of their parameters: what each gives, and its time."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Mapping, Sequence

from service.assets import assets_of
from service.data.readers import Example
from service.evaluation.run_policy import evaluate_policy, run_policy
from service.evaluation.sweep import Outcome, families_to_run
from service.executors.executor import Executor
from service.exits.policies.full_depth import FullDepth
from service.exits.policy import ExitPolicy
from service.models.store import StoredModel
from service.text.types import SequenceInput

TIMED, ROUNDS = 200, 3  # sequences, passes over them


def sweep_runs(
    stored: StoredModel,
    executor: Executor,
    examples: Sequence[Example],
    sequences: Sequence[SequenceInput],
    full_s: float,
) -> dict[str, list[Outcome]]:
    """Run them all; seconds are for all `sequences`, the examples' own, where full depth takes `full_s`."""
    families = {key: list(family.members(())) for key, family in families_to_run(assets_of(stored.model)).items()}
    every = [policy for policies in families.values() for policy in policies]
    shares = time_shares(executor, every, sequences)
    outcomes: dict[str, list[Outcome]] = {}
    for key, policies in families.items():
        for policy in policies:
            outcome = outcome_of_run(stored, executor, examples, policy, full_s * shares[policy])
            outcomes.setdefault(key, []).append(outcome)
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
