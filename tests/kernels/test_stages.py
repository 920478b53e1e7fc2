"""The table of stages: what is compiled of it does what it says."""

from __future__ import annotations

import numpy as np
from numba import njit

from service.kernels import cells, encoder, words
from service.kernels.layout import STEP
from service.kernels.stages import NUM_STAGES, STAGES, blocks_of

OF_EXITS = (words.project_words, words.mix_words, cells.score_cells)


@njit
def _count(step: np.void, counts: np.ndarray) -> None:
    for stage in range(len(counts)):
        counts[stage] = blocks_of(stage, step)


def counted(*, with_exit: bool) -> dict[str, int]:
    """How many blocks every stage has, in a step whose sizes all differ."""
    steps, counts = np.zeros(1, dtype=STEP), np.zeros(NUM_STAGES, dtype=np.int64)
    sizes = {"rows": 40, "moving_rows": 17, "sequences": 3, "heads": 5, "hidden": 128, "intermediate": 512}
    for name, size in {**sizes, "longest_words": 30, "word_columns": 96, "with_exit": with_exit}.items():
        steps[0][name] = size
    _count(steps[0], counts)
    return dict(zip([stage.name for stage in STAGES], counts.tolist(), strict=True))


def test_every_stage_has_the_blocks_that_its_row_of_the_table_says() -> None:
    assert list(counted(with_exit=True).values()) == [10, 6, 15, 5, 2, 5, 8, 5, 2, 10, 6, 12, 12]
    assert len(counted(with_exit=True)) == NUM_STAGES  # no two of one name


def test_without_an_exit_its_stages_have_no_blocks_and_the_others_as_many() -> None:
    of_exits = {stage.name for stage in STAGES if stage.run in OF_EXITS}
    with_one, without = counted(with_exit=True), counted(with_exit=False)
    assert len(of_exits) == 3 and STAGES[-4].run is encoder.store_rows
    assert without == {name: 0 if name in of_exits else blocks for name, blocks in with_one.items()}
