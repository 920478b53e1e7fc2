"""What an executor says of some sequences together and alone. As a module: by given instructions, in a process."""

from __future__ import annotations

import sys

from service.kernels.instructions import find
from service.kernels.tiles import load
from tests.executors.executors_ import fused, kernel_model, said_by_all_layers
from tests.models_ import random_sequences


def together_and_alone() -> str:
    """Two lists, of every sequence what every layer says: in a step with the others, and in one of its own."""
    sequences = random_sequences((3, 17, 1, 30))
    with fused(kernel_model()) as executor:
        layers = said_by_all_layers(executor, sequences)
        alone = [[said for (said,) in said_by_all_layers(executor, [one])] for one in sequences]
    return f"{[list(of_sequence) for of_sequence in zip(*layers, strict=True)]}\n{alone}"


if __name__ == "__main__":
    load(find(sys.argv[1]))
    print(together_and_alone())
