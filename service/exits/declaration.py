"""What a strategy says of itself beside its parameters: how its figures are drawn, and how its decisions are told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from service.exits.assets import ModelAssets
from service.exits.parameters import Evidences

if TYPE_CHECKING:
    from service.exits.policy import ExitPolicy


@dataclass(frozen=True, slots=True)
class Style:
    """A curve's colour, marker and line. All three differ between strategies, so that print and the colour-blind tell
    them apart; the colours are of Okabe and Ito's palette."""

    colour: str
    marker: str
    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Display:
    """How a decision is shown to a reader of a traced answer.

    title       what it decides by: the head of a column
    shown       which numbers of a layer are drawn on the scale of the threshold: its evidence, its consistencies with
                the earlier layers, or none
    thresholds  the parameters that are drawn beside them, on their own scale
    leaves      on which side of the first threshold a number has to be
    note        what a layer saw, in a few words
    why         by exit reason, why a sequence left early: a sentence
    held        why one did not leave early: words that follow "All 6 layers ran:"

    In note, why and held `{tau}` is a parameter, `{0}` the first number of the layer's evidence, `{votes}` its votes,
    and `{0|word}` counts: "1 word", "2 words". `{0?same:changed}` is "same" where the number is 1.
    """

    title: str
    shown: Literal["evidence", "consistency", "nothing"] = "nothing"
    thresholds: tuple[str, ...] = ()
    leaves: Literal["below", "above"] = "below"
    note: str = ""
    why: Mapping[str, str] = field(default_factory=dict)
    held: str


@dataclass(frozen=True, slots=True)
class Need:
    """What a strategy needs of a model that is no object of the model's: see `OfModel` for those.

    lack  what a model that does not meet it is told, in words that follow "strategy x needs"
    """

    is_met: Callable[[ModelAssets], bool]
    lack: str


EXIT_AFTER_EVERY_LAYER = Need(
    lambda model: not model.has_one_exit,
    "an exit after every layer, and this model, trained under a hash, has one for all",
)


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """Policies that are judged by the same evidence of every layer: one curve of a figure.

    key        the strategy's name, or for one with several families more than that: `vee/kl/mean`
    title      for figures and tables
    prototype  any of them
    members    all that a sweep tries, given what the prototype saw
    style      of the curve; None for one that is swept, but drawn in no figure of all strategies
    """

    key: str
    title: str
    prototype: ExitPolicy
    members: Callable[[Evidences], Iterable[ExitPolicy]]
    style: Style | None = None
