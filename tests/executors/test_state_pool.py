"""The pool of states: whose rows are whose, and when they are free again."""

from __future__ import annotations

import numpy as np
import torch

from service.executors.buckets import UNUSED
from service.executors.state_pool import StatePool


def pool_of(rows: int) -> StatePool:
    return StatePool(torch.arange(2.0 * (rows + 1)).view(-1, 2), lambda host: host)


def test_rows_are_taken_once_and_never_the_unused_one() -> None:
    pool = pool_of(10)
    taken = [pool.take(lengths) for lengths in ([3, 2], [4])]
    places = np.concatenate([found[1] for found in taken if found is not None])
    assert len(set(places)) == 9 and UNUSED not in places
    assert not set(pool.free) & set(places) and len(pool.free) == 1


def test_states_have_their_own_rows_in_order() -> None:
    pool = pool_of(10)
    found = pool.take([3, 2])
    assert found is not None
    (first, second), places = found
    assert first.places.tolist() == places[:3].tolist() and second.places.tolist() == places[3:].tolist()
    assert torch.equal(second.rows, pool.rows[torch.from_numpy(second.places)])


def test_rows_are_free_again_when_nobody_refers_to_their_state() -> None:
    pool = pool_of(6)
    found = pool.take([3, 3])
    assert found is not None
    states, _ = found
    del found
    assert pool.take([1]) is None
    kept = states.pop()
    states.clear()
    assert len(pool.free) == 3 and not set(pool.free) & set(kept.places)
    assert pool.take([3]) is not None


def test_where_there_is_no_room_nothing_is_taken() -> None:
    pool = pool_of(6)
    held = pool.take([2])
    assert pool.take([3, 2]) is None
    assert held is not None and len(pool.free) == 4


def test_rows_that_came_back_in_any_order_are_taken_together() -> None:
    pool, random = pool_of(200), np.random.default_rng(0)
    states = []
    for _ in range(300):
        lengths = random.integers(1, 9, size=random.integers(1, 5)).tolist()
        found = pool.take(lengths)
        if found is not None:
            states += found[0]
            del found
        else:
            states = states[len(states) // 2 :]
        held = [place for state in states for place in state.places]
        assert sorted([*held, *pool.free]) == list(range(1, 201))
