"""The step: runs a layer over some passages, looks at what its exit said, and decides which passages leave."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from service.executors.executor import Executor
from service.exits.parameters import Evidence
from service.exits.reading import Reading
from service.exits.words import Flags, WordProgress
from service.stepping.passage import Passage


def advance(executor: Executor, passages: Sequence[Passage]) -> None:
    """Move passages, which all stand before the same layer, through that layer; those that leave get an `exit_reason`.

    The layer runs once over all passages packed together, its exit only if some passage needs it. Where the executor
    runs several layers in a step, passages move through all of them up to the next exit that one of them needs. When
    this raises, no passage has changed, and the call may be repeated with some of them.
    """
    num_layers = executor.config.num_layers
    first = passages[0].layer + 1
    before = [passage.policy.start(passage.input) if first == 1 else passage.words for passage in passages]
    by_word = any(one is not None for one in before)  # then words may halt after any layer
    most = 1 if by_word else executor.max_step_layers
    layer = _next_exit(passages, range(first, min(first + most, num_layers + 1)), num_layers)
    needs_exit = [passage.needs_exit(layer, num_layers) for passage in passages]
    states, current = executor.run_layer(
        first,
        [passage.input for passage in passages],
        [passage.state for passage in passages],
        with_exit=any(needs_exit),
        with_table=any(passage.needs_table for passage in passages),
        active=_active(before),
        through=layer,
    )
    of_exit = [None] * len(passages) if current is None else current.split()
    readings = [reading if needed else None for reading, needed in zip(of_exit, needs_exit, strict=True)]
    words = [
        one and passage.policy.words_after(layer, num_layers, passage.input, one, reading)
        for passage, one, reading in zip(passages, before, readings, strict=True)
    ]
    is_last = layer == num_layers  # there no policy needs evidence to decide
    evidence = [()] * len(passages) if is_last else _evidence(passages, readings, words)
    unseen: list[Evidence] = [()] * (layer - first)  # after layers whose exits nobody needs, where nobody leaves
    reasons = [
        passage.policy.decide([*passage.history, *unseen, seen], num_layers)
        for passage, seen in zip(passages, evidence, strict=True)
    ]
    # from here on nothing can fail
    for index, passage in enumerate(passages):
        passage.state = states[index]
        passage.readings += [*(None for _ in unseen), readings[index]]
        passage.words = words[index]
        passage.history += [*unseen, evidence[index]]
        passage.exit_reason = reasons[index]


def run(executor: Executor, passages: Sequence[Passage]) -> Iterator[Passage]:
    """Advance passages together; yield each passage when it has left, before it is decoded or released."""
    under_way = list(passages)
    while under_way:
        advance(executor, under_way)
        staying = []
        for passage in under_way:
            if passage.exit_reason is None:
                staying.append(passage)
            else:
                yield passage
        under_way = staying


def _next_exit(passages: Sequence[Passage], layers: range, num_layers: int) -> int:
    """Return the first of some layers after which a passage needs the exit; the last of them if none does before."""
    for layer in layers[:-1]:
        if any(passage.needs_exit(layer, num_layers) for passage in passages):
            return layer
    return layers[-1]


def _active(words: Sequence[WordProgress | None]) -> list[Flags | None] | None:
    """Return for each passage which of its words move; None for a passage, or for all, whose words all move."""
    if all(one is None for one in words):
        return None
    return [None if one is None else one.moving for one in words]


def _evidence(
    passages: Sequence[Passage], readings: Sequence[Reading | None], words: Sequence[WordProgress | None]
) -> list[Evidence]:
    """Return the evidence of each passage after the layer, worked out together for passages that share a policy."""
    evidence: list[Evidence] = [()] * len(passages)
    groups: dict[tuple[int, int], list[tuple[int, list[Reading]]]] = {}
    for index, (passage, reading, of_words) in enumerate(zip(passages, readings, words, strict=True)):
        if of_words is not None:
            evidence[index] = passage.policy.word_evidence(of_words)
        elif reading is not None:
            seen = [*passage.seen, reading]
            groups.setdefault((id(passage.policy), len(seen)), []).append((index, seen))
    for members in groups.values():
        policy = passages[members[0][0]].policy
        joined = [Reading.join(of_exit) for of_exit in zip(*(seen for _, seen in members), strict=True)]
        for (index, _), row in zip(members, policy.evidence(joined).tolist(), strict=True):
            evidence[index] = tuple(row)
    return evidence
