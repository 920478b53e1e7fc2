"""The stages of a step, in their order: what each does, and in how many blocks.

The blocks of a stage do not depend on each other, so that threads can share them; a stage begins when the one before it
is done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from service.kernels import cells, encoder, words
from service.kernels.rows import inlined


class Stage(NamedTuple):
    """Describes one stage.

    name    says what the stage does
    blocks  takes (step) and returns the number of blocks
    run     takes (block, step, layer, scratch) and does one block
    """

    name: str
    blocks: Callable[..., Any]
    run: Callable[..., Any]


STAGES = (
    Stage("read the states or embeddings", encoder.blocks_of_rows, encoder.load_rows),
    Stage("queries, keys and values", encoder.blocks_of_qkv, encoder.project_qkv),
    Stage("attention", encoder.blocks_of_heads, encoder.attend_head),
    Stage("bytes of the context", encoder.blocks_of_moving_rows, encoder.quantize_context),
    Stage("output of attention", encoder.blocks_of_hidden, encoder.project_context),
    Stage("norm after attention", encoder.blocks_of_moving_rows, encoder.add_attended),
    Stage("expansion", encoder.blocks_of_intermediate, encoder.expand),
    Stage("activation", encoder.blocks_of_moving_rows, encoder.activate_expanded),
    Stage("contraction", encoder.blocks_of_hidden, encoder.contract),
    Stage("states after the layer", encoder.blocks_of_rows, encoder.store_rows),
    Stage("projections of the exit", words.blocks_of_projections, words.project_words),
    Stage("words of the exit", words.blocks_of_words, words.mix_words),
    Stage("cells of the exit", cells.blocks_of_cells, cells.score_cells),
)
NUM_STAGES = len(STAGES)


def _chosen(functions: Sequence[Callable[..., Any]], arguments: str) -> Callable[..., Any]:
    """Return a function of (stage, arguments) that calls the stage's one of `functions`; it is inlined in its caller.

    Its source is written out, a branch for each stage: numba cannot compile a function that is looked up at run time,
    and takes longer where such functions are nested.
    """
    source = [f"def chosen(stage, {arguments}):"]
    source += [f" if stage == {stage}: return function_{stage}({arguments})" for stage in range(len(functions) - 1)]
    source += [f" return function_{len(functions) - 1}({arguments})"]
    names: dict[str, Any] = {f"function_{stage}": function for stage, function in enumerate(functions)}
    exec("\n".join(source), names)
    return inlined(names["chosen"])


blocks_of = _chosen([stage.blocks for stage in STAGES], "step")
run_block = _chosen([stage.run for stage in STAGES], "block, step, layer, scratch")
