"""Sweeps the strategies that cannot be replayed: each policy is run, scored and timed. `sweep` does the others."""

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

TIMED, ROUNDS = 200, 3  # how many sequences are timed, and how often


def sweep_runs(
    stored: StoredModel,
    executor: Executor,
    examples: Sequence[Example],
    sequences: Sequence[SequenceInput],
    full_s: float,
) -> dict[str, list[Outcome]]:
    """Run every policy of every such strategy; return the outcomes by family.

    sequences  the sequences of `examples`, in order
    full_s     seconds that full depth takes for all `sequences`; an outcome's seconds are a share of them
    """
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
    """Run a policy over texts; return what it gives, with the `seconds` that it was measured to take."""
    return Outcome(policy, evaluate_policy(executor, stored.text_encoder, examples, policy).replay, seconds)


def time_shares(
    executor: Executor, policies: Iterable[ExitPolicy], sequences: Sequence[SequenceInput]
) -> Mapping[ExitPolicy, float]:
    """Measure each policy's time as a share of full depth's.

    A sample of the sequences is run, one at a time; the policies take turns, and the fastest round of each counts.
    """
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
