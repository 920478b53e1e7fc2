"""Work in the order of its turns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.in_turn import InTurn

works = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), max_size=30)


@given(added=works, gone=st.sets(st.integers(0, 29)), asked=st.integers(-1, 6))
def test_it_holds_what_was_added_and_not_removed(added: list[tuple[int, int]], gone: set[int], asked: int) -> None:
    in_turn = InTurn()
    for turn, work in added:
        in_turn.add(turn, work)
    for index in gone & set(range(len(added))):
        in_turn.remove(*added[index])
    left = [one for index, one in enumerate(added) if index not in gone]
    assert len(in_turn) == len(left) and in_turn.total == sum(work for _, work in left)
    assert in_turn.until(asked) == sum(work for turn, work in left if turn <= asked)


def test_nothing_is_left_of_rounding_once_it_is_empty() -> None:
    in_turn = InTurn()
    for number in range(10):
        in_turn.add(number, 0.1)
    for number in range(10):
        in_turn.remove(number, 0.1)
    assert in_turn.total == 0.0


def test_what_was_never_added_cannot_be_removed() -> None:
    in_turn = InTurn()
    in_turn.add(1.0, 2.0)
    with pytest.raises(KeyError, match=r"2\.0 at turn 3\.0"):
        in_turn.remove(3.0, 2.0)
