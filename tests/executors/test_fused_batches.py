"""To the last bit: what the fused executor says of a sequence depends on nobody else, on no thread and no step before.

What was said alone, by one thread of a fresh executor, is the measure of everything here.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import DTypeLike, NDArray

from service.executors import memory as memory_module
from service.executors.aligned import aligned_empty
from service.executors.fused import FusedExecutor
from service.kernels.plan import ALIGNMENT
from tests.executors.executors_ import (
    CONFIGS,
    Said,
    fused,
    kernel_model,
    long_sequence,
    said,
    said_by_all_layers,
    shared_model,
)
from tests.models_ import random_sequences

POOL = [*random_sequences((1, 2, 3, 7, 8, 9, 15, 16, 17, 27, 28, 29, 33, 40, 57), seed=2), long_sequence(130, 1)]
MODELS = ("as shipped", "reach 1, first pieces", "low rank", "DistilBERT", "nine labels")
WITH_THREADS = [*((name, threads) for name in MODELS for threads in (1, 2, 3)), ("MPNet", 2)]
INDEXES = st.lists(st.integers(0, len(POOL) - 1), min_size=1, max_size=24)
seeded = settings(derandomize=True, deadline=None, max_examples=40)


@cache
def alone(name: str, index: int) -> list[Said]:
    """[layer - 1] of one sequence of the pool, by a fresh executor each."""
    with fused(shared_model(name)) as executor:
        return [one for (one,) in said_by_all_layers(executor, [POOL[index]])]


def together(executor: FusedExecutor, indexes: Sequence[int]) -> list[list[Said]]:
    """[sequence][layer - 1] in one step a layer."""
    by_layer = said_by_all_layers(executor, [POOL[index] for index in indexes])
    return [list(own) for own in zip(*by_layer, strict=True)]


@pytest.fixture(scope="module", params=WITH_THREADS, ids=str)
def shared(request: pytest.FixtureRequest) -> Iterator[tuple[str, FusedExecutor]]:
    """A model's name and an executor, which sees all of a test's steps, large and small."""
    name, threads = request.param
    with fused(shared_model(name), threads) as executor:
        yield name, executor


@seeded
@given(indexes=INDEXES)
def test_a_sequence_is_answered_as_alone_whoever_is_in_its_step(
    shared: tuple[str, FusedExecutor], indexes: list[int]
) -> None:
    name, executor = shared
    assert together(executor, indexes) == [alone(name, index) for index in indexes]


@seeded
@given(indexes=INDEXES, seed=st.integers(0, 1000))
def test_a_sequence_is_answered_as_alone_whoever_joins_and_leaves(
    shared: tuple[str, FusedExecutor], indexes: list[int], seed: int
) -> None:
    """At every layer some sequences are put off, and those that go on stand in another order."""
    name, executor = shared
    draw = random.Random(seed)
    reached, states = [0] * len(indexes), [None] * len(indexes)
    for _ in range(8):
        layer = draw.choice(reached) + 1
        ready = [member for member in range(len(indexes)) if reached[member] == layer - 1]
        if layer > executor.config.num_layers:
            continue
        members = draw.sample(ready, draw.randint(1, len(ready)))
        inputs = [POOL[indexes[member]] for member in members]
        moved, reading = executor.run_layer(layer, inputs, [states[member] for member in members])
        assert said(moved, reading) == [alone(name, indexes[member])[layer - 1] for member in members]
        for member, state in zip(members, moved, strict=True):
            reached[member], states[member] = layer, state


@pytest.mark.parametrize("threads", [1, 2])
def test_steps_that_grow_and_shrink_are_answered_alike(threads: int) -> None:
    order = [[0], [3, 1], [15], [0], list(range(16)), [14], [2, 2, 2], list(range(16)) * 4, [13, 0], [1] * 60, [12]]
    with fused(shared_model("as shipped"), threads) as executor:
        for indexes in order:
            assert together(executor, indexes) == [alone("as shipped", index) for index in indexes], indexes


class Guarded:
    """In place of `aligned_empty`: memory full of what is no number, between marks that nobody may overwrite."""

    MARGIN = 65_536  # bytes; a multiple of the alignment

    def __init__(self) -> None:
        self.blocks: list[tuple[NDArray[np.uint8], int, int]] = []

    def __call__(self, shape: tuple[int, ...], kind: DTypeLike) -> NDArray[Any]:
        size = math.prod(shape) * np.dtype(kind).itemsize
        block = np.full(size + 3 * self.MARGIN, 0xA5, dtype=np.uint8)
        start = self.MARGIN - block.ctypes.data % ALIGNMENT
        block[start : start + size] = 0xFF
        self.blocks.append((block, start, start + size))
        return block[start : start + size].view(kind).reshape(shape)

    def is_intact(self) -> bool:
        """Whether all marks are still there."""
        outside = (part for block, start, end in self.blocks for part in (block[:start], block[end:]))
        return all(bool((part == 0xA5).all()) for part in outside)


@pytest.mark.parametrize(
    "name", ["as shipped", "low rank", "nine labels", "wide, far reach", "one label, one large head"]
)
def test_no_step_reads_or_writes_what_is_not_its_own_whichever_of_its_sizes_grows(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = kernel_model(CONFIGS[name])
    model.exits[0].bias += 9  # nearly every cell is a candidate: as many as there can be
    pieces_and_words = {
        "first": [(10, 8)] * 4,
        "sequences": [(3, 1)] * 8,
        "longest rows": [(40, 1)],
        "longest words": [(18, 16)] + [(3, 1)] * 7,
        "cells": [(18, 16), (18, 15)],
        "rows": [(40, 1), (20, 1)],
        "words": [(8, 6)] * 7,
        "none": [(10, 8)] * 4,
        "words of a block": [(40, 30)],
        "all": [(120, 1), (40, 30), (70, 57)],
    }
    with monkeypatch.context() as patched:
        guarded = Guarded()
        patched.setattr(memory_module, "aligned_empty", guarded)
        with fused(model) as executor:
            for grows, sizes in pieces_and_words.items():
                inputs = [long_sequence(*size, seed=seed) for seed, size in enumerate(sizes)]
                found = said(*executor.run_layer(1, inputs, [None] * len(inputs)))
                assert guarded.is_intact(), grows
                with monkeypatch.context() as unpatched:
                    unpatched.setattr(memory_module, "aligned_empty", aligned_empty)
                    with fused(model) as fresh:
                        assert found == [said(*fresh.run_layer(1, [one], [None]))[0] for one in inputs], grows
    assert len(guarded.blocks) > 20


def test_many_more_threads_than_cores_change_nothing() -> None:
    with fused(shared_model("as shipped"), threads=12) as executor:
        for indexes in ([0], list(range(16)), [0, 1], list(range(16))[::-1]):
            for _ in range(3):
                assert together(executor, indexes) == [alone("as shipped", index) for index in indexes]


def test_the_same_sequence_twice_in_a_step_is_two_sequences() -> None:
    with fused(shared_model("as shipped"), threads=2) as executor:
        assert together(executor, [9, 9, 9]) == [alone("as shipped", 9)] * 3


def test_digests_tell_sequences_layers_and_models_apart() -> None:
    found = [alone(name, index) for name in MODELS for index in (1, 2)]
    assert len({(one.state, one.table) for own in found for one in own}) == sum(map(len, found))
