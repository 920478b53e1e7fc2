"""DE3-BERT's distance ratio and EDR, written out, and over the candidate cells of a reading."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from service.exits.policies.de3 import CANDIDATE, De3, Prototypes, distance_ratio, entropy_distance_ratio
from service.exits.reading import Reading
from service.spans.table import cell_words

LABELS, RANK = 3, 4
NUM_WORDS = (3, 1, 5)


def written_out(entropy: float, r1: float, r2: float, weight: float) -> float:
    ratio = 0.5 * (1 + (r1 - r2) / max(r1, r2)) if max(r1, r2) else 0.5
    return (weight + 1) / (weight / ratio + 1 / entropy)


def test_the_ratio_is_small_where_the_prediction_is_much_the_nearest() -> None:
    distances = np.array([[1.0, 3.0, 2.0], [2.0, 2.0, 5.0], [0.0, 0.0, 0.0], [4.0, 1.0, 9.0]], dtype=np.float32)
    found = distance_ratio(distances, np.array([0, 0, 1, 0]))
    assert found.tolist() == pytest.approx([0.25, 0.5, 0.5, 0.875])


def test_edr_is_the_weighted_harmonic_mean_and_bears_zeros() -> None:
    entropy, ratio = np.array([0.3, 0.0, 0.2], dtype=np.float32), np.array([0.25, 0.4, 0.0], dtype=np.float32)
    found = entropy_distance_ratio(entropy, ratio, 2.0)
    assert found.tolist() == pytest.approx([3 / (2 / 0.25 + 1 / 0.3), 0.0, 0.0], abs=1e-6)
    assert entropy_distance_ratio(entropy, ratio, 0.0)[0] == pytest.approx(0.3)  # entropy alone
    assert entropy_distance_ratio(entropy, ratio, 1e6)[0] == pytest.approx(0.25, rel=1e-4)  # distance alone


def reading(seed: int = 0) -> Reading:
    generator = torch.Generator().manual_seed(seed)
    cells = sum(words * (words + 1) // 2 for words in NUM_WORDS)
    scores = 3 * torch.randn(cells, LABELS, generator=generator)
    scores[:, 0] += 3
    words = torch.randn(2, sum(NUM_WORDS), RANK, generator=generator).numpy()
    return Reading(torch.log_softmax(scores, 1), NUM_WORDS, nested=True, projections=(words[0], words[1]))


def test_a_sequence_is_as_uncertain_as_its_least_certain_candidate_cell() -> None:
    points = np.random.default_rng(1).normal(size=(2, LABELS, RANK)).astype(np.float32)
    policy = De3(tau=0.2, weight=1.5, prototypes=Prototypes(points))
    one = reading()
    for layer, seen in ((1, [one]), (2, [reading(5), one])):
        found = policy.evidence(seen)
        assert found.shape == (3, 1)
        cell = word = 0
        for sequence, words in enumerate(NUM_WORDS):
            largest = 0.0
            for first, last in zip(*cell_words(words), strict=True):
                row = one.table[cell].double().exp().tolist()
                cell += 1
                if 1 - row[0] <= CANDIDATE:
                    continue
                at = one.projections[0][word + first] + one.projections[1][word + last]
                distances = [float(np.linalg.norm(at - point)) for point in points[layer - 1]]
                label = int(np.argmax(row))
                other = min(d for index, d in enumerate(distances) if index != label)
                entropy = -sum(p * math.log(p) for p in row) / math.log(LABELS)
                largest = max(largest, written_out(entropy, distances[label], other, 1.5))
            word += words
            assert found[sequence, 0] == pytest.approx(largest, rel=1e-4), (layer, sequence)


def test_without_a_candidate_there_is_nothing_to_be_uncertain_of() -> None:
    table = torch.log_softmax(torch.tensor([[20.0, 0.0, 0.0]] * 6), 1)
    words = np.zeros((3, RANK), dtype=np.float32)
    sure = Reading(table, (3,), nested=True, projections=(words, words))
    policy = De3(prototypes=Prototypes(np.ones((1, LABELS, RANK), dtype=np.float32)))
    assert policy.evidence([sure]).tolist() == [[0.0]]
    assert policy.decide([(0.0,)], 4) == "confidence" and policy.decide([(0.5,)], 4) is None
    assert policy.decide([(0.5,)] * 4, 4) == "last_layer"


def test_batch_mates_change_nothing() -> None:
    policy = De3(prototypes=Prototypes(np.random.default_rng(1).normal(size=(1, LABELS, RANK)).astype(np.float32)))
    one = reading()
    together = policy.evidence([one])[:, 0]
    alone = [policy.evidence([part])[0, 0] for part in one.split()]
    joined = policy.evidence([Reading.join([one.split()[2], one.split()[0]])])[:, 0]
    assert alone == together.tolist() and joined.tolist() == [together[2], together[0]]
