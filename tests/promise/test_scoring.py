"""What a full run says of every level is what each of them would have served; grids look at no data."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from service.engine.sequence import Request, Sequence
from service.errors import BadInput
from service.exits.policies.budgeted import Budgeted
from service.exits.policies.full_depth import FullDepth
from service.exits.policies.gated_vote import GatedVote
from service.exits.policies.learned import Learned
from service.exits.policies.pabee import Pabee
from service.exits.policies.sentee import Sentee
from service.exits.policies.tokee import Tokee
from service.exits.policies.vee import Vee
from service.exits.policy import ExitPolicy
from service.promise.scoring import LevelScorer, Scores
from service.spans.types import Span
from service.stepping.stepper import ModelStepper
from tests.engine.scripted_ import answer, answered, make_engine
from tests.evaluation.traces_ import Traced, traced
from tests.exits.tables_ import random_rule

RULE = random_rule(4)
LEVELS: list[ExitPolicy] = [
    *(
        FullDepth(),
        Budgeted(1),
        Budgeted(3),
        Sentee(tau=0.62),
        Learned(rule=RULE, tau=0.5),
        Learned(rule=RULE, tau=2.0),
    ),
    *(Vee(), Vee(tau=-0.1), Vee(ensemble=True, tau=-0.1), Pabee(1), GatedVote(), Learned(rule=RULE, deepest_exit=1)),
]
shared = cache(traced)


@cache
def scored() -> Scores:
    trace = shared().trace
    return LevelScorer(LEVELS, 4).score(trace.readings, [sequence.owned for sequence in trace.sequences])


def serve(of: Traced, policy: ExitPolicy) -> tuple[Sequence, ...]:
    request = Request(tuple(of.texts), deadline=1.0, submitted=0.0, override=policy.to_json())
    answer(make_engine(ModelStepper(of.executor), rule=RULE), request)
    return answered(request).sequences


def owned(spans: list[Span], first: int, last: int) -> set[tuple[int, ...]]:
    return {span[:3] for span in spans if first <= span.start < last}


@pytest.mark.parametrize("index", range(len(LEVELS)), ids=lambda index: LEVELS[index].strategy)
def test_a_level_scores_what_it_would_have_served(index: int) -> None:
    of, found = shared(), scored()
    full = serve(of, FullDepth())
    for row, (served, deepest) in enumerate(zip(serve(of, LEVELS[index]), full, strict=True)):
        own = of.trace.sequences[row].owned
        answered, reference = owned(served.spans, *own), owned(deepest.spans, *own)
        assert found.exit_layers[row, index] == served.layer
        assert found.true_positives[row, index] == len(answered & reference)
        assert found.false_positives[row, index] == len(answered - reference)
        assert found.false_negatives[row, index] == len(reference - answered)


def test_the_levels_of_this_test_leave_at_different_layers_and_differ_from_full_depth() -> None:
    assert len({tuple(column) for column in scored().exit_layers.T.tolist()}) >= 6
    assert (scored().errors[:, 1:].sum(axis=0) > 0).sum() >= 6
    assert any(sequence.owned != (0, sequence.num_words) for sequence in shared().trace.sequences)


def test_full_depth_agrees_with_itself() -> None:
    assert set(scored().exit_layers[:, 0].tolist()) == {4}
    assert scored().errors[:, 0].sum() == 0 < scored().true_positives[:, 0].sum()


def test_a_sample_scores_alone_as_it_does_among_others() -> None:
    trace = shared().trace
    readings = [reading.split()[5:6] for reading in trace.readings]
    alone = LevelScorer(LEVELS, 4).score([one for (one,) in readings], [trace.sequences[5].owned])
    for name in ("exit_layers", "true_positives", "false_positives", "false_negatives"):
        assert np.array_equal(getattr(alone, name)[0], getattr(scored(), name)[5])


def test_a_strategy_by_word_is_refused_by_name() -> None:
    with pytest.raises(BadInput, match="tokee"):
        LevelScorer([FullDepth(), Tokee()], 4)
