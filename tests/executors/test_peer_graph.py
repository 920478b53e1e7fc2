"""What the peers of the benchmark run is our model: the same scores, whichever of Transformers' models is inside."""

from __future__ import annotations

import pytest
import torch

from benchmarks.peer_graph import FullDepth, feeds_of
from tests.executors.executors_ import readings_of, shared_model
from tests.models_ import eager, random_sequences


@pytest.mark.parametrize("name", ["as shipped", "MPNet"])
@torch.inference_mode()
def test_the_graph_of_peers_scores_as_our_last_exit_does(name: str) -> None:
    model, inputs = shared_model(name), random_sequences((5, 9, 1))
    scores = FullDepth(model)(**{kind: torch.tensor(rows) for kind, rows in feeds_of(inputs).items()})
    for own, reading in zip(scores, readings_of(eager(model), inputs)[-1].split(), strict=True):
        first, last = torch.triu_indices(*[reading.num_words[0]] * 2)
        cells = torch.nn.functional.pad(own.transpose(1, 2)[first, last], (1, 0))  # label 0 scores 0
        torch.testing.assert_close(cells.log_softmax(dim=1), reading.table, rtol=0, atol=1e-4)
