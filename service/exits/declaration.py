"""Types by which a strategy declares what it needs, how its curve is drawn, and how its decisions are explained."""

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
    """Says how a strategy's curve is drawn.

    Colour, marker and line all differ between strategies, for print in grey and for the colour-blind; the colours are
    from the palette of Okabe and Ito.
    """

    colour: str
    marker: str
    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Display:
    """Says how the decisions of a strategy are shown to a reader of a traced answer.

    title       what the strategy decides by: the head of a column
    shown       which numbers of a layer are drawn on the scale of the threshold: its evidence, its consistencies with
                the earlier layers, or none
    thresholds  the parameters that are drawn beside the numbers, on their own scale
    leaves      on which side of the first threshold a number has to be for a sequence to leave
    note        what a layer saw, in a few words
    why         a sentence for every exit reason: why a sequence left early
    held        why a sequence did not leave early: words that follow "All 6 layers ran:"

    In note, why and held `{tau}` is a parameter, `{0}` and `{1}` are numbers of the layer's evidence, `{votes}` its
    votes. `{0|word}` counts: "1 word", "2 words"; `{0|entity|entities}` where the plural is another. `{0?same:changed}`
    is "same" where the number is 1. A text that asks for what a layer has not, such as evidence of the last layer, is
    left empty: so held names parameters alone.
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
    """A condition that a model must meet before a strategy can run on it. Needs that are assets are marked `OfModel`.

    is_met  whether a model meets the condition
    lack    what is said of a model that does not meet it, in words that follow "strategy x needs"
    """

    is_met: Callable[[ModelAssets], bool]
    lack: str


EXIT_AFTER_EVERY_LAYER = Need(
    lambda model: not model.has_one_exit,
    "an exit after every layer, and this model has one alone",
)


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """Holds policies that decide by the same evidence, for a sweep: one curve of a figure.

    key        the strategy's name; a strategy with several families adds to it: `vee/kl/mean`
    title      its name in plots and tables
    prototype  any of the policies
    members    returns all policies that a sweep tries, given what the prototype saw: [layer - 1][sequence]
    style      of the curve; None for a family that is swept, but not drawn in the plots of all strategies
    """

    key: str
    title: str
    prototype: ExitPolicy
    members: Callable[[Evidences], Iterable[ExitPolicy]]
    style: Style | None = None
