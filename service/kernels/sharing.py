"""How threads share a step: they claim the blocks of a stage one at a time, and all wait for its end.

So a thread that comes late, or that the system has put aside, holds nobody up.
"""

from __future__ import annotations

from numba import carray

from service.kernels.gather import gather_results
from service.kernels.rows import inlined, kernel
from service.kernels.simd import fetch_and_add, load_shared, longs_at, pause, store_shared
from service.kernels.stages import NUM_STAGES, blocks_of, run_block

RING = 32  # descriptions of steps: a late helper may still read an old one while newer ones run
PATIENCE = 20_000  # looks for a new step before a helper goes to sleep: some 100 microseconds
LINE = 8  # int64 of a cache line
WANTED = 1  # where control says how many threads are wanted


@inlined
def run_stages(step, layer, counters, thread):
    """Run all stages of a step, together with whoever else does; counters: address of (NUM_STAGES, 16) int64, zero."""
    scratch = step.scratch + thread * step.scratch_bytes
    for stage in range(NUM_STAGES):
        claimed, done = counters + 128 * stage, counters + 128 * stage + 64  # a cache line each
        blocks = blocks_of(stage, step)
        finished = 0
        while True:
            block = fetch_and_add(claimed, 1)
            if block >= blocks:
                break
            run_block(stage, block, step, layer, scratch)
            finished += 1
        if finished:
            fetch_and_add(done, finished)
        while load_shared(done) < blocks:
            pause()


@kernel
def take_part(steps, layers, counters, control, helper, number, description):
    """Lead a step or help with steps.

    The leader, helper 0, runs the step that `description` describes, with all helpers that come, and returns the number
    of entities found. A helper helps with every step after `number` until none has come for a while, or it is not
    wanted, and returns the number of the last step that it saw, below 0 if there will be no more.

    steps (RING,) records of STEP, counters (RING, NUM_STAGES, 16) int64, control (1 + helpers, 8) int64: the number of
    the latest step and how many threads are wanted, and the step that each helper is at. description: the int64 words
    of a record of STEP.
    """
    shared = control.ctypes.data
    looks, found = 0, 0
    if helper == 0:
        number = _publish(counters, control, steps, description)
    while looks < PATIENCE:
        if helper:
            latest = load_shared(shared)
            if latest >= 0 and helper >= load_shared(shared + 8 * WANTED):
                number = latest
                break
            if latest == number:
                looks += 1
                pause()
                continue
            number, looks = latest, 0
            if number < 0:
                break
            store_shared(shared + 8 * LINE * helper, number)
        slot = number % RING
        if helper == 0 or load_shared(shared) - number < RING // 2:  # else the slot may be in use again
            run_stages(steps[slot], layers[steps[slot].layer], counters[slot].ctypes.data, helper)
        if helper == 0:
            found = gather_results(steps[slot]) if steps[slot].with_exit else 0
            break
        store_shared(shared + 8 * LINE * helper, 0)
    return number if helper else found


@kernel
def _publish(counters, control, steps, description):
    """Make the next step known to the helpers, in a slot that none of them is reading; return its number."""
    shared = control.ctypes.data
    number = load_shared(shared) + 1
    helper = 1
    while helper < len(control):
        busy_with = load_shared(shared + 8 * LINE * helper)
        if busy_with and busy_with % RING == number % RING:  # put aside by the system, many steps ago
            number += 1
            helper = 0
        helper += 1
    slot = number % RING
    words = carray(longs_at(steps.ctypes.data), (RING, len(description)))
    for index in range(len(description)):
        words[slot, index] = description[index]
    zeros = carray(longs_at(counters[slot].ctypes.data), (NUM_STAGES * 2 * LINE,))
    for index in range(len(zeros)):
        zeros[index] = 0
    store_shared(shared, number)
    return number
