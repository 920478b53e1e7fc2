"""The exit against Eq. 1 of VEE-BERT, written out cell by cell in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from service.errors import ModelRefused
from service.models.biaffine import BiaffineExit
from service.models.config import ExitConfig, ModelConfig
from service.models.packed import Packed, pack
from tests.models_ import random_sequences, tiny_config

NUM_WORDS = (4, 1, 6)
HIDDEN, LABELS = 5, 3


def random_exit(config: ExitConfig) -> BiaffineExit:
    exit_ = BiaffineExit(HIDDEN, LABELS, config)
    generator = torch.Generator().manual_seed(3)
    for parameter in exit_.parameters():
        nn.init.normal_(parameter, generator=generator)
    return exit_.double().requires_grad_(False)


Words = tuple[Tensor, Tensor]  # (words, hidden) each: what stands for a word as a span's first, and as its last


def words_and_packed(num_words: Sequence[int] = NUM_WORDS) -> tuple[Words, Packed]:
    generator = torch.Generator().manual_seed(4)
    packed = pack(random_sequences(num_words), torch.device("cpu"))
    first, last = torch.randn(2, sum(num_words), HIDDEN, dtype=torch.float64, generator=generator)
    return (first, last), packed


def spans(num_words: Sequence[int]) -> list[tuple[int, int]]:
    """First and last word of every valid cell, counted over all sequences."""
    found, offset = [], 0
    for count in num_words:
        found += [(offset + first, offset + last) for first in range(count) for last in range(first, count)]
        offset += count
    return found


def eq_1(words: Words, first: int, last: int, label: int, u: Tensor, w: Tensor, b: Tensor) -> float:
    """h_s' U h_e + W (h_s ++ h_e) + b, for one span and one label; b (widths, labels), the last row for all wider."""
    start, end = words[0][first].tolist(), words[1][last].tolist()
    score = float(b[min(last - first, len(b) - 1), label])
    for i, start_value in enumerate(start):
        for j, end_value in enumerate(end):
            score += start_value * float(u[i, label, j]) * end_value
    both = start + end
    return score + sum(float(w[label, i]) * value for i, value in enumerate(both))


def transcribed(words: Words, exit_: BiaffineExit, u: Tensor) -> Tensor:
    w = torch.cat([exit_.start_linear.weight, exit_.end_linear.weight], dim=1)
    scored = range(u.shape[1])
    rows = [
        [0.0, *(eq_1(words, first, last, label, u, w, exit_.bias) for label in scored)]
        for first, last in spans(NUM_WORDS)
    ]
    return torch.tensor(rows, dtype=torch.float64)


def product_of_factors(exit_: BiaffineExit) -> Tensor:
    """U = A U' B' of a low-rank exit; its projections hold A' and B', (rank, hidden)."""
    assert exit_.start_projection is not None
    assert exit_.end_projection is not None
    a, b = exit_.start_projection.weight, exit_.end_projection.weight
    return torch.einsum("ri,rks,sj->ikj", a, exit_.bilinear, b)


def test_the_full_form_is_eq_1_with_label_0_at_zero() -> None:
    words, packed = words_and_packed()
    exit_ = random_exit(ExitConfig("full", width_buckets=3))
    torch.testing.assert_close(exit_(*words, packed), transcribed(words, exit_, exit_.bilinear))


def test_the_low_rank_form_is_eq_1_with_a_factorised_u() -> None:
    words, packed = words_and_packed()
    exit_ = random_exit(ExitConfig("low_rank", rank=2, width_buckets=3))
    torch.testing.assert_close(exit_(*words, packed), transcribed(words, exit_, product_of_factors(exit_)))


def test_low_rank_equals_full_when_u_is_the_product_of_its_factors() -> None:
    words, packed = words_and_packed()
    low, full = random_exit(ExitConfig("low_rank", rank=3)), random_exit(ExitConfig("full"))
    full.load_state_dict(
        {
            "bilinear": product_of_factors(low),
            "bias": low.bias,
            "start_linear.weight": low.start_linear.weight,
            "end_linear.weight": low.end_linear.weight,
        }
    )
    torch.testing.assert_close(low(*words, packed), full(*words, packed))


@pytest.mark.parametrize("buckets", [0, 1])
def test_without_width_buckets_the_bias_is_one_constant_a_label(buckets: int) -> None:
    words, packed = words_and_packed()
    exit_ = random_exit(ExitConfig("full", width_buckets=buckets))
    assert exit_.bias.shape == (1, LABELS - 1)
    biased = exit_(*words, packed)
    bias = exit_.bias.clone()
    exit_.bias.zero_()
    constant = torch.cat([torch.zeros(1, 1, dtype=torch.float64), bias], dim=1)
    torch.testing.assert_close(biased - exit_(*words, packed), constant.expand(len(biased), -1))


def test_a_width_bucket_biases_spans_of_its_width_and_the_last_one_all_wider() -> None:
    words, packed = words_and_packed()
    exit_ = random_exit(ExitConfig("full", width_buckets=3))
    before = exit_(*words, packed)
    widths = torch.tensor([last - first + 1 for first, last in spans(NUM_WORDS)])
    for bucket, touched in ((0, widths == 1), (1, widths == 2), (2, widths >= 3)):
        exit_.bias[bucket, 1] += 1
        torch.testing.assert_close((exit_(*words, packed) - before)[:, 2], touched.double())
        exit_.bias[bucket, 1] -= 1


def test_scores_of_their_own_for_label_0_change_no_probability_once_subtracted() -> None:
    """The paper scores all K labels; an exit holding the differences to label 0 says the same."""
    words, packed = words_and_packed()
    generator = torch.Generator().manual_seed(5)
    u, w, b = (
        torch.randn(*shape, dtype=torch.float64, generator=generator)
        for shape in ((HIDDEN, LABELS, HIDDEN), (LABELS, 2 * HIDDEN), (1, LABELS))
    )
    rows = [[eq_1(words, first, last, label, u, w, b) for label in range(LABELS)] for first, last in spans(NUM_WORDS)]
    of_paper = torch.tensor(rows, dtype=torch.float64)
    exit_ = random_exit(ExitConfig("full", width_buckets=0))
    exit_.bilinear.copy_(u[:, 1:] - u[:, :1])
    exit_.start_linear.weight.copy_((w[1:] - w[:1])[:, :HIDDEN])
    exit_.end_linear.weight.copy_((w[1:] - w[:1])[:, HIDDEN:])
    exit_.bias.copy_(b[:, 1:] - b[:, :1])
    torch.testing.assert_close(exit_(*words, packed).log_softmax(1), of_paper.log_softmax(1))


def test_anything_added_to_all_labels_of_a_cell_changes_no_probability() -> None:
    words, packed = words_and_packed()
    scores = random_exit(ExitConfig("full"))(*words, packed)
    shift = torch.randn(len(scores), 1, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    torch.testing.assert_close((scores + shift).log_softmax(1), scores.log_softmax(1))


def contextual(words: Tensor, exit_: BiaffineExit, side: str) -> list[Tensor]:
    """g(A' h_s + C' c + sum_j N_j' A' h_{s+j}) of every word, sequence by sequence; the mean c is of first words."""
    (first_words, _), _ = words_and_packed()
    projection, context = exit_.get_submodule(f"{side}_projection"), exit_.get_submodule(f"{side}_context")
    neighbours = exit_.neighbours
    found, offset = [], 0
    for count in NUM_WORDS:
        mean = sum(first_words[offset : offset + count]) / count
        projected = [projection.weight @ word + projection.bias for word in words[offset : offset + count]]
        for s in range(count):
            seen = projected[s] + context.weight @ mean
            if neighbours is not None:
                reach, weight = neighbours.reach, neighbours.weight[0 if side == "start" else 1]
                for j, matrix in zip(range(-reach, reach + 1), weight.chunk(2 * reach + 1), strict=True):
                    if 0 <= s + j < count:
                        seen = seen + projected[s + j] @ matrix
            found.append(nn.functional.gelu(seen))
        offset += count
    return found


@pytest.mark.parametrize("reach", [0, 1, 2, 7])
def test_the_contextual_form_adds_the_sequences_mean_and_the_neighbours_within_reach_and_passes_a_gelu(
    reach: int,
) -> None:
    (first_words, last_words), packed = words_and_packed()
    exit_ = random_exit(ExitConfig("contextual", rank=2, reach=reach, width_buckets=3))
    starts, ends = contextual(first_words, exit_, "start"), contextual(last_words, exit_, "end")
    bilinear = [
        [starts[first] @ exit_.bilinear[:, label] @ ends[last] for label in range(LABELS - 1)]
        for first, last in spans(NUM_WORDS)
    ]
    linear = [
        exit_.start_linear.weight @ first_words[first]
        + exit_.end_linear.weight @ last_words[last]
        + exit_.bias[min(last - first, 2)]
        for first, last in spans(NUM_WORDS)
    ]
    scores = exit_(first_words, last_words, packed)
    assert (scores[:, 0] == 0).all()
    torch.testing.assert_close(scores[:, 1:], torch.tensor(bilinear, dtype=torch.float64) + torch.stack(linear))


@pytest.mark.parametrize("reach", [0, 2, 5])
def test_what_an_exit_says_of_a_sequence_does_not_depend_on_its_batch_mates(reach: int) -> None:
    (first_words, last_words), packed = words_and_packed((6, 3, 9))
    exit_ = random_exit(ExitConfig("contextual", rank=2, reach=reach))
    together = exit_(first_words, last_words, packed)[21 : 21 + 6]
    alone = pack(random_sequences((3,)), torch.device("cpu"))
    torch.testing.assert_close(exit_(first_words[6:9], last_words[6:9], alone), together, rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_words", [(6, 3, 9), (4, 4, 4)], ids=["padded", "rectangular"])
def test_changing_a_sequence_changes_no_bit_of_its_neighbours_in_the_batch(num_words: tuple[int, ...]) -> None:
    (first_words, last_words), packed = words_and_packed(num_words)
    exit_ = random_exit(ExitConfig("contextual", rank=2, reach=5))
    before = exit_(first_words, last_words, packed).split(packed.cell_counts)
    middle = slice(num_words[0], num_words[0] + num_words[1])
    first_words[middle] += 1.0
    last_words[middle] -= 1.0
    after = exit_(first_words, last_words, packed).split(packed.cell_counts)
    assert torch.equal(before[0], after[0]) and torch.equal(before[2], after[2])
    assert not torch.equal(before[1], after[1])


@pytest.mark.parametrize("reach", [0, 1, 3])
def test_without_the_mean_a_word_is_seen_no_further_than_reach(reach: int) -> None:
    (first_words, last_words), packed = words_and_packed((12,))
    exit_ = random_exit(ExitConfig("contextual", rank=2, reach=reach))
    for name, weight in exit_.named_parameters():
        weight.mul_(0 if "context" in name else 0.2)  # small: a GELU far below 0 would hide a change
    before, changed = exit_(first_words, last_words, packed), 5
    first_words[changed] += 1.0
    differs = (exit_(first_words, last_words, packed) != before).any(dim=1)
    for (first, _), is_other in zip(spans((12,)), differs.tolist(), strict=True):
        assert is_other == (abs(first - changed) <= reach)


@pytest.mark.parametrize(
    "config", [ExitConfig(reach=0), ExitConfig("low_rank", reach=0), ExitConfig("full", reach=0)], ids=str
)
def test_without_reach_an_exit_has_no_weights_for_neighbours(config: ExitConfig) -> None:
    exit_ = BiaffineExit(HIDDEN, LABELS, config)
    assert exit_.neighbours is None
    assert not [name for name in exit_.state_dict() if "neighbours" in name]


def test_an_exit_that_reaches_has_a_matrix_for_every_offset() -> None:
    shapes = {name: tuple(weight.shape) for name, weight in random_exit(ExitConfig(rank=3)).state_dict().items()}
    assert shapes["neighbours.weight"] == (2, 5 * 3, 3)


# the config


def changed_exits(**fields: object) -> dict[str, Any]:
    document = tiny_config().to_json()
    return {**document, "exits": {**document["exits"], **fields}}


@pytest.mark.parametrize(("form", "reach"), [("contextual", -1), ("contextual", 1.5), ("low_rank", 2), ("full", 1)])
def test_a_negative_reach_and_one_of_a_form_without_context_are_refused(form: str, reach: float) -> None:
    with pytest.raises(ModelRefused, match=rf"exits\.reach is {reach}; expected (an integer from )?0 "):
        ModelConfig.from_json(changed_exits(form=form, reach=reach))


def test_a_config_that_knows_nothing_of_reach_is_of_a_model_without() -> None:
    document = changed_exits()
    del document["exits"]["reach"]
    assert ModelConfig.from_json(document).exits.reach == 0


@pytest.mark.parametrize(("form", "reach"), [("contextual", 0), ("contextual", 5), ("low_rank", 0), ("full", 0)])
def test_any_other_reach_is_read_back(form: str, reach: int) -> None:
    assert ModelConfig.from_json(changed_exits(form=form, reach=reach)).exits.reach == reach
