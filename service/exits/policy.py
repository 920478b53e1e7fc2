"""The base class of exit strategies: parameters with `evidence` (maths over a batch) and `decide` (plain Python).

A strategy is one file in `service/exits/policies`. Its class declares everything that other code needs to know of it:
the catalog, sweeps, reports and their plots, metrics, schemas, the console and the documents read these declarations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from typing import Any, ClassVar

import numpy as np

from service.exits.assets import ModelAssets
from service.exits.declaration import EXIT_AFTER_EVERY_LAYER, Display, Family, Need, Style
from service.exits.parameters import Evidence, Evidences, Parameter, asset_fields_of, parameters_of
from service.exits.reading import Reading
from service.exits.words import WordProgress
from service.spans.types import DoubleArray
from service.text.types import SequenceInput

ExitReason = str
LAST_LAYER: ExitReason = "last_layer"


@dataclass(frozen=True, slots=True)
class ExitPolicy(ABC):
    """Decides when sequences leave, by frozen parameters. Subclasses are frozen dataclasses; layers count from 1.

    A field annotated with a `Parameter` is set over the wire; one marked `OfModel` comes from the model.

    strategy       its name on the wire
    title, origin  its name in plots, and who published it
    meaning        when a sequence leaves, in a sentence
    display        how its decisions are shown to a reader of a traced answer
    reasons        the exit reasons of a sequence that leaves early
    needs          what it needs of a model, beside the assets that its fields name
    is_replayable  whether a trace, which keeps what every exit said at full depth, is enough to know what it gives
    calibrated_by  the parameters by which calibrated defaults are looked up, beside the strategy: another value of one
                   of them changes what tau means
    decided_by     the parameters that only `decide` reads: policies that differ in these alone see the same evidence
    style          of its curve in plots; None for a strategy that is not drawn
    """

    strategy: ClassVar[str]
    title: ClassVar[str]
    origin: ClassVar[str]
    meaning: ClassVar[str]
    display: ClassVar[Display]
    reasons: ClassVar[tuple[ExitReason, ...]] = ()
    needs: ClassVar[tuple[Need, ...]] = (EXIT_AFTER_EVERY_LAYER,)
    is_replayable: ClassVar[bool] = True
    calibrated_by: ClassVar[tuple[str, ...]] = ()
    decided_by: ClassVar[tuple[str, ...]] = ()
    style: ClassVar[Style | None] = None

    def __post_init__(self) -> None:
        """Raise BadInput for a value that its parameter does not take."""
        for name in self.parameters():
            self.parameter(name).check(name, getattr(self, name))

    # what it declares

    @classmethod
    def parameters(cls) -> dict[str, Parameter]:
        """Return the parameters by name, as they are on the wire."""
        return parameters_of(cls)

    def parameter(self, name: str) -> Parameter:
        """Return a parameter with the range that it has for this policy's other values."""
        return self.parameters()[name]

    @classmethod
    def variants(cls) -> list[ExitPolicy]:
        """Return a policy for every combination of other parameters that changes a parameter's range or default."""
        return []

    @classmethod
    def lacks(cls, model: ModelAssets) -> str | None:
        """Return what the strategy needs that a model does not have; None for a model that supports it."""
        unmet = [need.lack for need in cls.needs if not need.is_met(model)]
        missing = [mark.lack for kind, mark in asset_fields_of(cls).values() if model.get(kind) is None]
        return next(iter([*unmet, *missing]), None)

    @classmethod
    def of_model(cls, model: ModelAssets, **parameters: Any) -> ExitPolicy:
        """Make a policy for a model that lacks nothing; parameters that are left out take the strategy's own defaults.

        Raises BadInput for a value that a parameter does not take.
        """
        policy = cls(**parameters, **cls._assets(model))
        policy.check(model.num_layers)
        return policy

    @classmethod
    def _assets(cls, model: ModelAssets) -> dict[str, Any]:
        return {name: model.get(kind) for name, (kind, _) in asset_fields_of(cls).items()}

    @classmethod
    def defaults(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the strategy's own defaults, used where there are no calibrated ones; they may depend on `given`."""
        return {f.name: f.default for f in fields(cls) if f.name in cls.parameters()}

    @classmethod
    def families(cls, model: ModelAssets) -> list[Family]:
        """Return what a sweep tries on a model; by default all combinations of the grids of the parameters."""
        grids = {name: parameter for name, parameter in cls.parameters().items() if parameter.grid}

        def members(seen: Evidences) -> list[ExitPolicy]:
            values = product(*(parameter.values(model, seen) for parameter in grids.values()))
            policies = [cls.of_model(model, **dict(zip(grids, row, strict=True))) for row in values]
            return [policy for policy in policies if policy.is_worth_trying]

        return [Family(cls.strategy, cls.title, cls(**cls._assets(model)), members, cls.style)]

    @property
    def is_worth_trying(self) -> bool:
        """Whether a sweep should try this policy; False where one of its parameters makes no difference."""
        return True

    # how it decides

    def needs_exit(self, layer: int, num_layers: int) -> bool:
        """Tell whether the exit after `layer` must be computed: wherever `decide` may leave.

        The exit after the last layer is computed whatever this says.
        """
        return True

    def needs_exit_of(self, layer: int, num_layers: int, sequence: SequenceInput) -> bool:
        """Tell whether the exit after `layer` must be computed for this sequence."""
        return self.needs_exit(layer, num_layers)

    @property
    def compares_tables(self) -> bool:
        """Whether `evidence` or `prediction` read the tables themselves, and not only summaries and entities."""
        return False

    def evidence(self, readings: Sequence[Reading]) -> DoubleArray:
        """Return n numbers per sequence that `decide` needs: (sequences, n) float64, on the host.

        readings: of the exits computed so far, the latest last
        The numbers of a sequence depend only on its own cells, never on other sequences of the batch, nor on
        thresholds. By default there are none: n is 0.
        """
        return np.zeros((len(readings[-1].num_words), 0))

    @abstractmethod
    def decide(self, history: Sequence[Evidence], num_layers: int) -> ExitReason | None:
        """Return the reason to leave here, or None to go on; `history` has the evidence of every layer that ran.

        At the last layer the reason is always LAST_LAYER.
        """

    def prediction(self, readings: Sequence[Reading]) -> Reading:
        """Return the reading that is decoded for sequences that leave here; by default the latest one."""
        return readings[-1]

    def votes(self, consistency: Evidence) -> int | None:
        """Return how many earlier layers agree with a layer; None for a strategy without votes.

        consistency  of the layer with layer 1, 2, ..., by VEE's default measure where the strategy has none of its own
        """
        return None

    # how it halts words; only strategies that halt words one by one override these

    def start(self, sequence: SequenceInput) -> WordProgress | None:
        """Return the words of a sequence before its first layer; None where they move together to the end."""
        return None

    def words_after(
        self, layer: int, num_layers: int, sequence: SequenceInput, words: WordProgress, reading: Reading | None
    ) -> WordProgress:
        """Return the words after `layer`, some of them halted there; `reading` is None if the exit did not run.

        By default no word halts.
        """
        return words.after(layer, None if reading is None else reading.word_uncertainty)

    def word_evidence(self, words: WordProgress) -> Evidence:
        """Return the evidence of a sequence whose words halt one by one, after a layer that is not the last."""
        return ()

    # how it is counted, compared and kept

    def work(self, sequence: SequenceInput, num_layers: int) -> int:
        """Return the most work that a sequence may take, in pieces that go to full depth; admission counts by it."""
        return sequence.num_pieces

    def check(self, num_layers: int) -> None:
        """Raise BadInput for a parameter that a model of `num_layers` layers cannot use."""

    def kind(self, num_layers: int) -> Hashable:
        """Return a key that is equal for policies with the same exits and evidence, which only `decide` differently."""
        needed = tuple(self.needs_exit(layer, num_layers) for layer in range(1, num_layers + 1))
        return type(self), needed, *(getattr(self, f.name) for f in fields(self) if f.name not in self.decided_by)

    def carried_over(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Return the strategy and parameters that a merge patch keeps.

        Changes that name a strategy, be it this one, keep nothing: they start from its defaults. Nor is a tau kept
        whose meaning they alter.
        """
        if "strategy" in changes:
            return {}
        is_recalibrated = bool(changes.keys() & set(self.calibrated_by))
        return {name: value for name, value in self.to_json().items() if name != "tau" or not is_recalibrated}

    def to_json(self) -> dict[str, Any]:
        """Return strategy and parameters as they are on the wire."""
        return {"strategy": self.strategy, **{name: getattr(self, name) for name in self.parameters()}}
