"""Simulated deployments of certificates: streams whose truth is known, many at once. Measures nothing by itself.

A step is a sentence that would be sampled if the probability were at its highest; it is sampled with 1 / weight. Levels
err on nested sets of sentences, as thresholds of one strategy do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.promise.agreement import Promise
from service.promise.certificates import Certificates, Terms
from service.promise.scoring import Scores
from service.spans.types import DoubleArray, IntArray

CORRECT, OF_CORRECT = np.array([0, 1, 2, 3, 5]), np.array([0.3, 0.25, 0.2, 0.15, 0.1])  # entities of a sentence
ERRORS, OF_ERRORS = np.array([1, 2, 3]), np.array([0.65, 0.25, 0.1])  # of a sentence with any
MEAN_CORRECT, MEAN_ERRORS = float(CORRECT @ OF_CORRECT), float(ERRORS @ OF_ERRORS)


@dataclass(frozen=True, slots=True)
class Step:
    """Holds a sentence of every deployment.

    payoffs  (deployments, levels) what it pays if it is sampled; safest level first
    means    (deployments, levels) what it was expected to pay
    weights  (deployments,) how many sentences, of those that are sampled most, a sample stands for
    """

    payoffs: DoubleArray
    means: DoubleArray
    weights: DoubleArray


Traffic = Callable[[int, np.random.Generator], Step]
"""Draws the sentences of a step, 1, 2, ...; asked once for every step, in order."""


@dataclass(frozen=True, slots=True)
class Deployments:
    """Holds what became of simulated deployments.

    is_false       (deployments,) whether a level was ever certified that was bad on the average of its window so far
    certified_at   (deployments, levels) the first step after which the level was in force; 0: never
    dropped_at     (deployments, levels) the last step after which the level went out of force; 0: never
    in_force       (deployments, levels) at the end
    samples        (deployments,) sampled sentences in all
    alarms         (deployments,)
    """

    is_false: NDArray[np.bool_]
    certified_at: IntArray
    dropped_at: IntArray
    in_force: NDArray[np.bool_]
    samples: IntArray
    alarms: IntArray


def simulate(
    traffic: Traffic,
    terms: Terms,
    *,
    deployments: int,
    levels: int,
    steps: int,
    most_payoff: float = 1.0,
    seed: int = 0,
    shares: DoubleArray | None = None,
    weigh: bool = True,
) -> Deployments:
    """Run deployments side by side; `weigh=False` leaves the weights out, to see what they are for."""
    draw = np.random.default_rng(seed)
    certificates = Certificates(levels, terms, most_payoff=most_payoff, shares=shares, streams=(deployments,))
    shape = (deployments, levels)
    truth, reached_falsely, was_in_force = np.zeros(shape), np.zeros(shape, bool), np.zeros(shape, bool)
    certified_at, dropped_at = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    is_false, samples = np.zeros(deployments, bool), np.zeros(deployments, np.int64)
    for step in range(1, steps + 1):
        now = traffic(step, draw)
        is_sampled = draw.random(deployments) * now.weights < 1
        certificates.settle(now.payoffs * is_sampled[:, None], now.weights if weigh else 1.0)
        is_new = (certificates.samples == 1)[:, None]  # after an alarm the window begins with the next step
        truth = np.where(is_new, 0.0, truth) + now.means
        just_reached = certificates.proven_after == certificates.samples[:, None]
        reached_falsely = np.where(is_new, False, reached_falsely) | (just_reached & (truth <= 0))
        is_false |= (certificates.proven & reached_falsely).any(axis=1)
        samples += is_sampled
        in_force = certificates.in_force
        certified_at = np.where(in_force & (certified_at == 0), step, certified_at)
        dropped_at = np.where(was_in_force & ~in_force, step, dropped_at)
        was_in_force = in_force
    return Deployments(is_false, certified_at, dropped_at, was_in_force, samples, certificates.alarms)


def draw_scores(agreement: DoubleArray, draw: np.random.Generator) -> Scores:
    """Draw a sentence for every deployment: Scores of shape (deployments, levels)."""
    num = len(agreement)
    correct = CORRECT[np.searchsorted(np.cumsum(OF_CORRECT)[:-1], draw.random(num))][:, None]
    of_some = ERRORS[np.searchsorted(np.cumsum(OF_ERRORS)[:-1], draw.random(num))][:, None]
    errors = of_some * (draw.random(num)[:, None] < share_with_errors(agreement))
    return Scores(np.ones_like(errors), np.broadcast_to(correct, errors.shape), errors, np.zeros_like(errors))


def share_with_errors(agreement: DoubleArray) -> DoubleArray:
    """Return the share of sentences with errors that gives an agreement (F1)."""
    share: DoubleArray = 2 * MEAN_CORRECT * (1 - agreement) / (agreement * MEAN_ERRORS)
    return share


def mean_payoff(agreement: DoubleArray, promise: Promise) -> DoubleArray:
    """Return the expected payoff of a sentence drawn by `draw_scores`."""
    correct, errors = np.meshgrid(CORRECT, np.array([0, *ERRORS]), indexing="ij")
    flat = correct.reshape(-1, 1), errors.reshape(-1, 1)
    table = promise.payoffs(Scores(np.ones_like(flat[1]), *flat, np.zeros_like(flat[1]))).reshape(correct.shape)
    share = share_with_errors(agreement)[..., None]
    of_errors = np.concatenate([1 - share, share * OF_ERRORS], axis=-1)
    mean: DoubleArray = of_errors @ (OF_CORRECT @ table)
    return mean


def independent(promise: Promise, deployments: int, agreement: Sequence[float]) -> Traffic:
    """Return traffic that is always the same, with the F1 of every level against full depth."""
    of_deployments, weights = np.tile(agreement, (deployments, 1)), np.ones(deployments)
    means = mean_payoff(of_deployments, promise)
    return lambda step, draw: Step(promise.payoffs(draw_scores(of_deployments, draw)), means, weights)


def bursty(
    promise: Promise,
    deployments: int,
    quiet: Sequence[float],
    peak: Sequence[float],
    *,
    weight: float,
    mean_steps: float,
) -> Traffic:
    """Return traffic with quiet times and peaks of random length, half of the sentences in each.

    In a peak a sentence is sampled with 1 / `weight` of the highest probability. Half of the deployments begin in one.
    """
    agreement = np.array([quiet, peak])
    means = mean_payoff(agreement, promise)
    state = np.arange(deployments) % 2

    def at(step: int, draw: np.random.Generator) -> Step:
        state[:] = np.where(draw.random(deployments) < 1 / mean_steps, 1 - state, state)
        payoffs = promise.payoffs(draw_scores(agreement[state], draw))
        return Step(payoffs, means[state], np.where(state == 1, weight, 1.0))

    return at


def drifting(
    promise: Promise, deployments: int, begin: Sequence[float], end: Sequence[float], *, change: int, length: int
) -> Traffic:
    """Return traffic that moves from one agreement to another, evenly within `length` steps from step `change` on."""

    def at(step: int, draw: np.random.Generator) -> Step:
        share = min(max((step - change) / length, 0.0), 1.0)
        agreement = ((1 - share) * np.asarray(begin) + share * np.asarray(end))[None]
        payoffs = promise.payoffs(draw_scores(np.repeat(agreement, deployments, axis=0), draw))
        return Step(payoffs, np.repeat(mean_payoff(agreement, promise), deployments, axis=0), np.ones(deployments))

    return at


def resampled(deployments: int, *payoffs: DoubleArray, change: int = 0) -> Traffic:
    """Return traffic whose sentences are drawn from data: what each pays, (sentences, levels).

    Where a second data set is given, sentences are drawn from it after step `change`.
    """
    means = [np.tile(of_data.mean(axis=0), (deployments, 1)) for of_data in payoffs]

    def at(step: int, draw: np.random.Generator) -> Step:
        which = int(len(payoffs) > 1 and step > change)
        rows = draw.integers(len(payoffs[which]), size=deployments)
        return Step(payoffs[which][rows], means[which], np.ones(deployments))

    return at
