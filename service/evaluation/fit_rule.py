"""Fits the learned exit rule to a trace: the rule whose errors and work together cost least.

Let q_m be the probability that a sequence that has come to layer m leaves after it. It then leaves after layer m with
probability pi_m = q_m (1 - q_1) ... (1 - q_{m-1}). The fit minimises the mean of sum_m pi_m (errors_m + price m work)
over sequences and over prices, so that one rule serves every price; at run time the price is tau. `work` is the work of
one layer for that sequence: a layer of a longer sequence must mend more. The method is ours: the rule does not learn
whether an exit is right, but whether going on would pay.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from service.evaluation.replay import Replayer
from service.exits.parameters import Evidence
from service.exits.policies.learned import FEATURES, UNIT_PIECES, ExitRule, Learned, features
from service.spans.types import IntArray

LOWEST_PRICE, HIGHEST_PRICE, MIDDLE_PRICE = 0.003, 0.2, 0.02  # entity errors per unit of work
STEP_PIECES = 8  # the fixed cost of a layer and its exit (kernels start, the rule is asked) is that of 8 pieces
GOLD_SHARE = 0.5  # of the errors against gold; the rest counts disagreement with full depth, which is less noisy
STEPS, LEARNING_RATE, WEIGHT_DECAY = 600, 0.02, 0.1
SHARPNESS = 2.0  # how fast a leaving probability turns at its threshold


def fit_rule(replayer: Replayer, sequences: NDArray[np.int64] | None = None, seed: int = 0) -> ExitRule:
    """Fit a rule to a trace, or only to those of its sequences whose indices are given."""
    chosen = np.arange(len(replayer.trace.sequences)) if sequences is None else sequences
    inputs = [layer[chosen] for layer in _inputs(replayer)]
    errors, work = _errors(replayer)[chosen], work_of_a_layer(replayer.trace.num_pieces[chosen])
    return fit_to_errors(inputs, torch.from_numpy(errors).float(), torch.from_numpy(work).float(), seed)


def cross_fitted_evidence(replayer: Replayer, folds: int = 5, seed: int = 0) -> list[list[Evidence]]:
    """Return [layer - 1][sequence] the worth of going on, estimated by a rule fitted without the fold of its text.

    Texts of several corpora are folded by corpus, so that each is judged as text of a kind that the rule has not seen:
    people's own texts will be such. Texts of one corpus fall into so many `folds` by chance.
    """
    trace = replayer.trace
    fold_of_text = np.random.default_rng(seed).permutation(len(trace.texts)) % folds
    if len(set(trace.sources)) > 1:
        fold_of_text = np.unique(trace.sources, return_inverse=True)[1]
    fold = fold_of_text[trace.text_of_sequence]
    evidences: list[list[Evidence]] = [[()] * len(fold) for _ in range(trace.num_layers)]
    for held_out in np.unique(fold).tolist():
        rule = fit_rule(replayer, np.flatnonzero(fold != held_out), seed)
        policy = Learned(rule=rule)
        for layer in range(1, trace.num_layers):
            found = policy.evidence(trace.readings[:layer]).tolist()
            for index in np.flatnonzero(fold == held_out).tolist():
                evidences[layer - 1][index] = tuple(found[index])
    return evidences


def work_of_a_layer(num_pieces: IntArray) -> NDArray[np.float64]:
    """Return the work of one layer and its exit for every sequence: (sequences,), nearly proportional to its time.

    The unit is the work for a sequence of UNIT_PIECES pieces.
    """
    return (STEP_PIECES + num_pieces) / (STEP_PIECES + UNIT_PIECES)


def _inputs(replayer: Replayer) -> list[Tensor]:
    """Return for every layer but the last the features of all sequences: (sequences, features)."""
    readings = replayer.trace.readings
    return [torch.tensor(features(readings[:layer]), dtype=torch.float64) for layer in range(1, len(readings))]


def _errors(replayer: Replayer) -> NDArray[np.float64]:
    """Return the entity errors of every exit: (sequences, layers).

    They are a weighted mean of the errors against gold and half of the differences from full depth.
    """
    trace = replayer.trace
    against_gold = replayer.errors()
    full = trace.readings[-1].span_sets
    differing = [
        [len(found ^ at_full_depth) for found, at_full_depth in zip(reading.span_sets, full, strict=True)]
        for reading in trace.readings
    ]
    return GOLD_SHARE * against_gold + (1 - GOLD_SHARE) / 2 * np.array(differing, dtype=np.float64).T


def fit_to_errors(
    inputs: Sequence[Tensor], errors: Tensor, work: Tensor, seed: int = 0, counts: Tensor | None = None
) -> ExitRule:
    """Fit a rule to what is known of some sequences.

    inputs   for every layer but the last, the FEATURES of all sequences: (sequences, FEATURES) float64
    errors   (sequences, layers) float32 entity errors of every exit
    work     (sequences,) float32 of one layer; see `work_of_a_layer`
    counts   (sequences,) float32 how much each counts, 1 in the mean; by default all the same
    """
    generator = torch.Generator().manual_seed(seed)
    means = [layer.mean(dim=0) for layer in inputs]
    scales = [layer.std(dim=0).clamp_min(1e-6) for layer in inputs]
    standard = torch.stack([(x - m) / s for x, m, s in zip(inputs, means, scales, strict=True)]).float()
    num_exits, _, num_features = standard.shape
    with torch.enable_grad():
        weights = torch.zeros(num_exits, num_features, 1, requires_grad=True)
        bias = torch.zeros(num_exits, 1, requires_grad=True)
        slope = torch.zeros(num_exits, 1, requires_grad=True)  # of the price, through a softplus
        optimiser = torch.optim.AdamW([weights, bias, slope], lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
        depth = torch.arange(1.0, num_exits + 2)
        spread = math.log(HIGHEST_PRICE / LOWEST_PRICE)
        for _ in range(STEPS):
            log_price = math.log(LOWEST_PRICE) + spread * torch.rand(len(errors), generator=generator)
            score = (standard @ weights).squeeze(2) + bias
            score = score + functional.softplus(slope) * (log_price - math.log(MIDDLE_PRICE))
            leaving = torch.sigmoid(SHARPNESS * score)  # (exits, sequences): q
            staying = torch.cumprod(1 - leaving, dim=0)
            shares = torch.cat([leaving[:1], leaving[1:] * staying[:-1], staying[-1:]]).T  # (sequences, layers): pi
            price = log_price.exp()
            costs = (shares * (errors + (price * work)[:, None] * depth)).sum(dim=1) / price.sqrt()
            loss = (costs if counts is None else counts * costs).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return _rule(weights.detach(), bias.detach(), functional.softplus(slope).detach(), means, scales)


def _rule(weights: Tensor, bias: Tensor, slope: Tensor, means: Sequence[Tensor], scales: Sequence[Tensor]) -> ExitRule:
    """Solve score = 0 for the price, which is the worth of going on: its logarithm is linear in the raw features."""
    rows, constants = [], []
    for layer, (mean, scale) in enumerate(zip(means, scales, strict=True)):
        per_feature = -weights[layer, :, 0].double() / (slope[layer].double() * scale)
        constant = math.log(MIDDLE_PRICE) - float(bias[layer] / slope[layer]) - float(per_feature @ mean)
        rows.append(tuple(round(value, 8) for value in per_feature.tolist()))
        constants.append(round(constant, 8))
    if any(len(row) != len(FEATURES) for row in rows):
        raise RuntimeError("a rule was fitted to other features")
    return ExitRule(tuple(rows), tuple(constants))
