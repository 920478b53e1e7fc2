"""What memory a step is given: every array that it has an address for, never less than before."""

from __future__ import annotations

import numpy as np

from service.kernels.layout import PLACES
from service.kernels.plan import ALIGNMENT, Sizes, arrays
from tests.executors.executors_ import fused, kernel_config, kernel_model

HANDED_IN = {
    *("table", "pieces", "positions", "shapes", "token_type", "embedding_gain", "embedding_bias", "relative_bias")
}
LAST_OF_THE_SIZES = PLACES["has_one_exit"]


def test_every_address_of_a_step_is_planned_or_handed_in() -> None:
    planned = arrays(Sizes(10, 2, 6, 21, 6, 4), [1] * len(PLACES), 1, keeps_words=True)
    addresses = {name for name, place in PLACES.items() if place > LAST_OF_THE_SIZES}
    assert addresses - {"scratch_bytes", "epsilon"} == planned.keys() | HANDED_IN
    assert arrays(Sizes(1, 1, 1, 1, 1, 1), [1] * len(PLACES), 1, keeps_words=False).keys() == planned.keys() - {
        "seen_words"
    }


def test_a_model_is_described_by_the_sizes_that_its_memory_is_planned_by() -> None:
    with fused(kernel_model(kernel_config(width=64, labels=3)), threads=2) as executor:
        words = executor._memory.words.tolist()
    planned = arrays(Sizes(10, 2, 6, 21, 6, 4), words, 2, keeps_words=False)
    assert planned["qkv"] == (np.float32, (10, 192))
    assert planned["halves"][1] == (6, 128)  # 3 labels of rank 32 + 3 + 1 columns, whole panels
    assert planned["scratch"][1][0] == 2 and planned["scratch"][1][1] % ALIGNMENT == 0


def test_joined_sizes_fit_both_and_no_size_may_be_short() -> None:
    one, other = Sizes.of([5, 9], [3, 2]), Sizes.of([20], [1])
    assert one == Sizes(14, 2, 5, 9, 9, 3)
    joined = one.joined(other)
    assert one.fit(joined) and other.fit(joined) and joined == Sizes(20, 2, 5, 9, 20, 3)
    assert not one.fit(other) and not other.fit(one)
