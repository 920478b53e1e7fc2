"""The step: run a layer over some passages, look at what its exit said, decide who leaves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from service.executors.executor import Executor
from service.exits.parameters import Evidence
from service.exits.reading import Reading
from service.exits.words import Flags, WordProgress
from service.stepping.passage import Passage


def advance(executor: Executor, passages: Sequence[Passage]) -> None:
    """Move passages, which all stand before the same layer, through it; whoever leaves has an `exit_reason` then.

    The layer runs once over all of them packed together, the exit only if somebody needs it. When this raises, nobody
    has moved, and it may be called again with some of them.
    """
    num_layers = executor.config.num_layers
    layer = passages[0].layer + 1
    needs_exit = [passage.needs_exit(num_layers) for passage in passages]
    before = [passage.policy.start(passage.input) if layer == 1 else passage.words for passage in passages]
    states, current = executor.run_layer(
        layer,
        [passage.input for passage in passages],
        [passage.state for passage in passages],
        with_exit=any(needs_exit),
        with_table=any(passage.needs_table for passage in passages),
        active=_active(before),
    )
    of_exit = [None] * len(passages) if current is None else current.split()
    readings = [reading if needed else None for reading, needed in zip(of_exit, needs_exit, strict=True)]
    words = [
        one and passage.policy.words_after(layer, num_layers, passage.input, one, reading)
        for passage, one, reading in zip(passages, before, of_exit, strict=True)
    ]
    is_last = layer == num_layers  # there nobody asks for a reason to leave
    evidence = [()] * len(passages) if is_last else _evidence(passages, readings, words)
    reasons = [
        passage.policy.decide([*passage.history, seen], num_layers)
        for passage, seen in zip(passages, evidence, strict=True)
    ]
    # from here on nothing can fail
    for index, passage in enumerate(passages):
        passage.state = states[index]
        passage.readings.append(readings[index])
        passage.words = words[index]
        passage.history.append(evidence[index])
        passage.exit_reason = reasons[index]


def run(executor: Executor, passages: Sequence[Passage]) -> Iterator[Passage]:
    """Advance passages that set out together; yield each one when it has left, with what it holds on the device."""
    under_way = list(passages)
    while under_way:
        advance(executor, under_way)
        yield from (passage for passage in under_way if passage.exit_reason is not None)
        under_way = [passage for passage in under_way if passage.exit_reason is None]


def _active(words: Sequence[WordProgress | None]) -> list[Flags | None] | None:
    """Per passage, which of its words move; None where all do."""
    if all(one is None for one in words):
        return None
    return [None if one is None else one.moving for one in words]


def _evidence(
    passages: Sequence[Passage], readings: Sequence[Reading | None], words: Sequence[WordProgress | None]
) -> list[Evidence]:
    """What each one's policy sees after the layer, worked out together for those that share a policy."""
    groups: dict[tuple[int, int], list[tuple[int, list[Reading]]]] = {}
    for index, (passage, reading) in enumerate(zip(passages, readings, strict=True)):
        if reading is not None or words[index] is not None:
            seen = passage.seen if reading is None else [*passage.seen, reading]
            groups.setdefault((id(passage.policy), len(seen)), []).append((index, seen))
    evidence: list[Evidence] = [()] * len(passages)
    for members in groups.values():
        policy = passages[members[0][0]].policy
        found = policy.look([seen for _, seen in members], [words[index] for index, _ in members])
        for (index, _), of_passage in zip(members, found, strict=True):
            evidence[index] = of_passage
    return evidence
