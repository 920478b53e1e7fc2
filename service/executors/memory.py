"""What the fused executor hands to the kernels: the record of a step, and the arrays that it points to."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.executors.aligned import aligned_empty
from service.exits.words import Flags
from service.kernels.arrange import arrange
from service.kernels.layout import PLACES, STEP
from service.kernels.plan import Sizes, arrays
from service.kernels.rounding import rounded_up
from service.kernels.rows import PANEL
from service.models.config import ModelConfig
from service.spans.table import num_cells
from service.text.types import SequenceInput

ACTIVATIONS = {"gelu": 0, "relu": 1}  # names and numbers of those that the kernels know
_LAYER, _TABLE, _BY_WORD = PLACES["layer"], PLACES["table"], PLACES["by_word"]


class StepMemory:
    """A record of STEP and memory for steps of any size, reserved for the largest one so far."""

    def __init__(self, config: ModelConfig, embeddings: dict[str, NDArray[np.float32]], threads: int) -> None:
        """embeddings: by name, the tables that the kernels look up; whoever calls keeps them alive."""
        self._config, self._threads = config, threads
        self._record = _describe_model(config, embeddings)
        self.words: NDArray[np.int64] = self._record.view(np.int64)  # of the record
        self._reserved = Sizes(0, 0, 0, 0, 0, 0)
        self.arrays: dict[str, NDArray[Any]] = {}  # by their names in STEP; larger than a step needs
        positions = config.encoder.max_positions - config.encoder.position_offset
        self._positions = np.arange(positions) + config.encoder.position_offset

    def lay_out(self, inputs: Sequence[SequenceInput], active: Sequence[Flags | None] | None) -> None:
        """Tell the kernels who is in the step, which words move, and where each one's rows, words and cells lie.

        active: per sequence, (words,) which of its words move, None where it is not read word by word; None: none is
        """
        lengths = [sequence.num_pieces for sequence in inputs]
        num_words = [sequence.num_words for sequence in inputs]
        sizes, count = Sizes.of(lengths, num_words), len(inputs)
        if not sizes.fit(self._reserved):
            self._reserve(sizes)
        memory = self.arrays
        memory["row_starts"][: count + 1] = list(accumulate(lengths, initial=0))
        memory["word_starts"][: count + 1] = list(accumulate(num_words, initial=0))
        memory["cell_starts"][:count] = list(accumulate(map(num_cells, num_words[:-1]), initial=0))
        self._fill("first_piece", [sequence.first_piece for sequence in inputs])
        self._fill("last_piece", [sequence.last_piece for sequence in inputs])
        memory["reads_words"][:count], self.words[_BY_WORD] = 0, active is not None
        if active is not None:
            memory["reads_words"][:count] = [flags is not None and self._config.hash is None for flags in active]
            moves = [
                np.ones(n, dtype=bool) if flags is None else flags for n, flags in zip(num_words, active, strict=True)
            ]
            memory["word_moves"][: sizes.words] = np.concatenate(moves)
        self.words[:_LAYER] = sizes.rows, count, sizes.words, sizes.longest_words, sizes.cells
        arrange(self._record)

    def look_up(self, inputs: Sequence[SequenceInput]) -> None:
        """Tell the kernels which embeddings layer 1 begins with."""
        self._fill("piece_ids", [sequence.piece_ids for sequence in inputs])
        self._fill("shape_ids", [sequence.shape_ids for sequence in inputs])
        self._fill("position_ids", [self._positions[: sequence.num_pieces] for sequence in inputs])

    def ask(self, layer: int, *, with_exit: bool, table: NDArray[np.float32] | None) -> None:
        """Tell the kernels which layer to run, from 1, whether to run its exit, and where its table goes, if wanted."""
        self.words[_LAYER : _LAYER + 3] = layer - 1, with_exit, table is not None
        if table is not None:
            self.words[_TABLE] = table.ctypes.data

    def _fill(self, name: str, parts: Sequence[NDArray[np.int64]]) -> None:
        """Write parts one after the other."""
        if len(parts) == 1:
            self.arrays[name][: len(parts[0])] = parts[0]
        else:
            np.concatenate(parts, out=self.arrays[name][: sum(map(len, parts))])

    def _reserve(self, sizes: Sizes) -> None:
        """Get memory for steps of these sizes; what was reserved before stays enough."""
        sizes = sizes.joined(self._reserved)
        planned = arrays(sizes, self.words.tolist(), self._threads, keeps_words=self._config.prototypes)
        self.arrays = {name: aligned_empty(shape, kind) for name, (kind, shape) in planned.items()}
        for name, array in self.arrays.items():
            self.words[PLACES[name]] = array.ctypes.data
        self.words[PLACES["scratch_bytes"]] = self.arrays["scratch"].shape[1]
        self._reserved = sizes  # last: what fails before leaves it to be done again


def _describe_model(config: ModelConfig, embeddings: dict[str, NDArray[np.float32]]) -> NDArray[Any]:
    """(1,) a record of STEP, with what does not change from step to step."""
    encoder, exits, labels = config.encoder, config.exits, config.num_labels - 1
    steps = np.zeros(1, dtype=STEP)
    values = {
        "hidden": encoder.hidden_size,
        "heads": encoder.num_heads,
        "intermediate": encoder.intermediate_size,
        "activation": ACTIVATIONS[encoder.activation],
        "rank": exits.rank,
        "labels": labels,
        "reach": exits.reach if exits.form == "contextual" else 0,
        "longest_span": encoder.max_positions,
        "word_columns": rounded_up(2 * (exits.rank + labels), PANEL),
        "half_columns": rounded_up(labels * (exits.rank + labels + 1), PANEL),
        "farthest": embeddings["relative_bias"].shape[1] // 2 if "relative_bias" in embeddings else 0,
        "is_contextual": exits.form == "contextual",
        "ends_at_last_piece": exits.end_piece == "last",
        "is_nested": config.nested,
        "has_one_exit": config.num_exits == 1 < config.num_layers,
        "epsilon": encoder.layer_norm_eps,
        **{name: table.ctypes.data for name, table in embeddings.items()},
    }
    for name, value in values.items():
        steps[0][name] = value
    return steps
