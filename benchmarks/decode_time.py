"""Measures the time to decode one span table, by its words and by the share of its cells that are candidates.

    python -m benchmarks.decode_time

Prints medians of many runs on random tables. A trained model leaves a few candidates; "all" is the worst case.
"""

from __future__ import annotations

import statistics
import time

import numpy as np

from service.spans.decode import decode
from service.spans.table import cell_words, num_cells

RUNS = 200


def decode_ms(num_words: int, num_candidates: int, *, nested: bool) -> float:
    """Return the median milliseconds of `decode` over random tables."""
    random = np.random.default_rng(0)
    times = []
    for _ in range(RUNS):
        cells = np.sort(random.choice(num_cells(num_words), num_candidates, replace=False))
        first, last = cell_words(num_words)
        log_probs = np.log(random.uniform(0.3, 1.0, num_candidates))
        found = np.stack([first[cells], last[cells], np.ones(num_candidates), log_probs], axis=1).astype(np.float32)
        start = time.perf_counter()
        decode(found, nested=nested)
        times.append(time.perf_counter() - start)
    return 1_000 * statistics.median(times)


def main() -> None:
    """Measure and print the table."""
    print("words  candidates   flat ms   nested ms")
    for num_words in (16, 32, 128):
        for num_candidates in (10, num_cells(num_words)):
            flat, nested = (decode_ms(num_words, num_candidates, nested=nested) for nested in (False, True))
            name = "all" if num_candidates > 10 else "10"
            print(f"{num_words:5d}  {name:>10s}   {flat:7.3f}   {nested:9.3f}")


if __name__ == "__main__":
    main()
