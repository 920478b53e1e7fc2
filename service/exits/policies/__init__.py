"""The exit strategies, one file each, registered here: the API, replay and calibration read this table."""

from __future__ import annotations

from collections.abc import Mapping

from service.exits.policies.branchynet import BranchyNet
from service.exits.policies.budgeted import Budgeted
from service.exits.policies.de3 import De3
from service.exits.policies.full_depth import FullDepth
from service.exits.policies.gated_vote import GatedVote
from service.exits.policies.hashee import HashEE
from service.exits.policies.learned import Learned
from service.exits.policies.pabee import Pabee
from service.exits.policies.sentee import Sentee
from service.exits.policies.shallow_deep import ShallowDeep
from service.exits.policies.tokee import Tokee
from service.exits.policies.vee import Vee
from service.exits.policy import ExitPolicy

_ON_EVERY_MODEL = (Vee, FullDepth, Budgeted, BranchyNet, ShallowDeep, Sentee, Pabee, GatedVote, Learned)
_WHERE_TRAINED_FOR = (De3, Tokee, HashEE)

STRATEGIES: Mapping[str, type[ExitPolicy]] = {
    policy.strategy: policy for policy in (*_ON_EVERY_MODEL, *_WHERE_TRAINED_FOR)
}
REPLAYED: Mapping[str, type[ExitPolicy]] = {policy.strategy: policy for policy in _ON_EVERY_MODEL}
"""Those that need nothing but what a trace keeps; the others are run, see `service.evaluation.run_policy`."""
