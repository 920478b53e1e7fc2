"""Texts without their words: how long they are, and after which layer each leaves under each policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from service.exits.assets import ModelAssets
from service.exits.catalog import PolicyCatalog
from service.exits.policies.learned import FEATURES, ExitRule
from service.exits.policy import ExitPolicy
from service.text.types import EncodedText, SequenceInput


@dataclass(frozen=True, slots=True)
class Level:
    """A policy, what calibration expects of it, and what it did.

    parameters   strategy and parameters, as PATCH /exit-policy takes them
    speed        how many times as fast as full depth, as measured by calibration
    f1_loss      F1 x 100 below full depth, likewise
    exit_layers  by sequence: after which layer it leaves
    """

    parameters: Mapping[str, Any]
    speed: float
    f1_loss: float
    exit_layers: tuple[int, ...]


@dataclass(frozen=True)
class Recording:
    """What the simulation knows of texts; a text is one sequence or several.

    num_layers  of the model
    chars       by text: its characters
    sequences   by text: the pieces of its sequences
    levels      by name; "full_depth", presets, and "level 0", "level 1", ... of the autopilot's ladder
    """

    num_layers: int
    chars: tuple[int, ...]
    sequences: tuple[tuple[int, ...], ...]
    levels: Mapping[str, Level]

    @cached_property
    def texts(self) -> list[EncodedText]:
        """The texts as the engine takes them: as long as they were, and with nothing in them."""
        return [EncodedText("", tuple(_blank(pieces) for pieces in of_text)) for of_text in self.sequences]

    @cached_property
    def pieces(self) -> list[int]:
        """By text: its pieces."""
        return [sum(of_text) for of_text in self.sequences]

    @cached_property
    def policies(self) -> dict[str, ExitPolicy]:
        """The policies by name: they say which exits run and how work is counted; what they decide was recorded."""
        num_exits = self.num_layers - 1
        rule = ExitRule(((0.0,) * len(FEATURES),) * num_exits, (0.0,) * num_exits)
        catalog = PolicyCatalog(ModelAssets(self.num_layers).with_asset(rule))
        return {name: catalog.policy(level.parameters) for name, level in self.levels.items()}

    def ladder(self) -> list[str]:
        """Return the names of the autopilot's levels, the most accurate first."""
        return [name for name in self.levels if name.startswith("level ")]

    def exit_layers(self, name: str) -> dict[int, int]:
        """Return after which layer each sequence of `texts` leaves under a policy, by the sequence's `id`."""
        inputs = [sequence for text in self.texts for sequence in text.sequences]
        return dict(zip(map(id, inputs), self.levels[name].exit_layers, strict=True))

    def to_json(self) -> dict[str, Any]:
        """Return the recording as plain JSON types."""
        levels = {
            name: {
                "parameters": dict(level.parameters),
                "speed": level.speed,
                "f1_loss": level.f1_loss,
                "exit_layers": "".join(map(str, level.exit_layers)) if self.num_layers < 10 else level.exit_layers,
            }
            for name, level in self.levels.items()
        }
        return {
            "num_layers": self.num_layers,
            "chars": list(self.chars),
            "sequences": [list(of_text) for of_text in self.sequences],
            "levels": levels,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Recording:
        """Read what `to_json` returned."""
        levels = {
            name: Level(one["parameters"], one["speed"], one["f1_loss"], tuple(map(int, one["exit_layers"])))
            for name, one in data["levels"].items()
        }
        return cls(data["num_layers"], tuple(data["chars"]), tuple(map(tuple, data["sequences"])), levels)


def _blank(pieces: int) -> SequenceInput:
    nothing, word = np.zeros(pieces, dtype=np.int64), np.zeros(1, dtype=np.int64)
    return SequenceInput(nothing, nothing, word, word, word, word + 1, (0, 1))
