"""Operating points: policies with what they were measured to give. Calibration writes them into the model folder."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from service.errors import BadInput, ModelRefused
from service.exits.assets import ModelAssets
from service.exits.catalog import PolicyCatalog, default_key
from service.exits.policies.learned import ExitRule
from service.exits.policy import ExitPolicy

Preset = Literal["accurate", "balanced", "fast"]
PRESETS: tuple[Preset, ...] = get_args(Preset)
Interval = tuple[float, float]
LOSS_UNIT = "F1 x 100 below full depth"
LEAST_STEP = 1.1  # each level of the ladder is faster than the one before by at least this factor


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """Holds a policy and what to expect of it, as measured on the data set of the calibration.

    parameters                   strategy and parameters, as PATCH /exit-policy takes them
    f1                           F1 x 100
    f1_loss                      F1 x 100 of full depth minus that of this policy
    average_exit_layer           mean over sequences
    average_exit_layer_by_token  mean over sequences, weighted by word pieces
    ..._interval                 95 % bootstrap interval of the figure
    speedup_layers               num_layers / average_exit_layer
    speedup_latency              measured time of full depth / of this policy, one sentence at a time
    preset                       the preset that this point is, if it is one
    """

    parameters: Mapping[str, Any]
    f1: float
    f1_interval: Interval
    f1_loss: float
    f1_loss_interval: Interval
    average_exit_layer: float
    average_exit_layer_interval: Interval
    average_exit_layer_by_token: float
    speedup_layers: float
    speedup_latency: float
    preset: Preset | None = None

    def to_json(self) -> dict[str, Any]:
        """Return all fields as they are on the wire."""
        return {name: value for name, value in asdict(self).items() if name != "preset" or value is not None}

    def expected(self) -> dict[str, Any]:
        """Return the figures that GET /exit-policy shows as expected of this policy."""
        return {name: value for name, value in self.to_json().items() if name not in ("parameters", "preset")}


@dataclass(frozen=True, slots=True)
class Calibration:
    """Holds everything that calibration has found for a model.

    points       the front, cheapest first
    others       further measured points: the calibrated defaults of the other strategies and measures
    rule         the learned exit rule's weights
    provenance   what the figures hold for: data set, device, executor, threads, weights, command
    """

    points: tuple[OperatingPoint, ...]
    others: tuple[OperatingPoint, ...] = ()
    rule: ExitRule | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def full_f1(self) -> float:
        """F1 x 100 of full depth, as the points tell it."""
        return round(self.points[0].f1 + self.points[0].f1_loss, 2)

    def catalog(self, model: ModelAssets) -> PolicyCatalog:
        """Return the policies of the model, with calibrated defaults and the learned rule."""
        points = (*self.others, *(point for point in self.points if point.preset == "balanced"))
        defaults = {default_key(point.parameters["strategy"], point.parameters): point.parameters for point in points}
        return PolicyCatalog(model.with_asset(self.rule), defaults)

    def expected(self, policy: ExitPolicy) -> dict[str, Any] | None:
        """Return what was measured for exactly this policy, or None if it was not measured."""
        found = next((point for point in (*self.points, *self.others) if point.parameters == policy.to_json()), None)
        return found.expected() if found else None

    def preset_of(self, policy: ExitPolicy) -> Preset | None:
        """Return the preset that has exactly these parameters, or None."""
        return next((point.preset for point in self.points if point.parameters == policy.to_json()), None)

    def choose(self, goal: str, wish: object) -> OperatingPoint:
        """Return the best point that meets a goal (a key of GOALS). Raises BadInput, which names what is possible."""
        return GOALS[goal](self.points, goal, wish)

    def ladder(self, max_f1_loss: float) -> tuple[OperatingPoint, ...]:
        """Return levels for the autopilot: points of the front that lose at most `max_f1_loss` (F1 x 100).

        The most accurate point is first, every next one is faster, by at least LEAST_STEP except for the last, and the
        last is the fastest that the loss allows. Full depth is a level only where it is on the front: mostly a
        shallower point is as accurate. Raises BadInput where even the most accurate point loses more.
        """
        _number("max_f1_loss", max_f1_loss, min(point.f1_loss for point in self.points), math.inf, LOSS_UNIT)
        levels: list[OperatingPoint] = []
        for point in sorted(self.points, key=lambda point: (-point.f1, -point.speedup_latency)):
            if point.f1_loss <= max_f1_loss and (not levels or point.speedup_latency > levels[-1].speedup_latency):
                if len(levels) > 1 and levels[-1].speedup_latency < LEAST_STEP * levels[-2].speedup_latency:
                    levels.pop()  # only the last may be a small step, and only until a faster one takes its place
                levels.append(point)
        return tuple(levels)

    def to_json(self) -> dict[str, Any]:
        """Return the calibration as plain JSON types."""
        return {
            "provenance": dict(self.provenance),
            "points": [point.to_json() for point in self.points],
            "others": [point.to_json() for point in self.others],
            "rule": self.rule.to_json() if self.rule else None,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], model: ModelAssets) -> Calibration:
        """Read what `to_json` returned. Raises ModelRefused for anything that does not fit the model."""
        try:
            rule = ExitRule.from_json(data["rule"], model.num_layers) if data["rule"] is not None else None
            catalog = PolicyCatalog(model.with_asset(rule))
            points = tuple(read_point(item, catalog) for item in data["points"])
            others = tuple(read_point(item, catalog) for item in data["others"])
            calibration = cls(points, others, rule, data["provenance"])
        except (KeyError, TypeError, ValueError, OverflowError, BadInput) as error:
            raise ModelRefused(f"the operating points cannot be used: {error}; calibrate the model again") from error
        if sorted(point.preset for point in points if point.preset) != sorted(PRESETS):
            raise ModelRefused(f"the operating points must have each preset of {list(PRESETS)} once; calibrate again")
        return calibration


def catalog_of(operating_points: Mapping[str, Any] | None, model: ModelAssets) -> PolicyCatalog:
    """Return the policies of a model, given its operating points as its folder has them (None: not calibrated)."""
    if operating_points is None:
        return PolicyCatalog(model)
    return Calibration.from_json(operating_points, model).catalog(model)


def read_point(item: Mapping[str, Any], catalog: PolicyCatalog) -> OperatingPoint:
    """Read one point. A parameter that did not exist when the point was measured takes its default.

    Raises ValueError for figures or a preset that no point has, and BadInput for parameters that the strategy does not
    take.
    """
    pairs = dict(item).items()  # TypeError or ValueError for what is no object
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in pairs}
    point = OperatingPoint(**values)
    for name, figure in point.expected().items():
        numbers = figure if name.endswith("_interval") else (figure,)
        fits = isinstance(numbers, tuple) and len(numbers) == (2 if name.endswith("_interval") else 1)
        if not fits or not all(_is_finite(number) for number in numbers):
            raise ValueError(f"{name} is {reprlib.repr(figure)}; expected a finite number, of an interval two")
    if point.preset not in (None, *PRESETS):
        raise ValueError(f"preset is {reprlib.repr(point.preset)}; expected one of {list(PRESETS)}, or none")
    return replace(point, parameters=catalog.policy(point.parameters).to_json())


def _is_finite(number: object) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number)


def _fastest_enough(points: Sequence[OperatingPoint], goal: str, wish: object) -> OperatingPoint:
    highest = max(point.speedup_latency for point in points)
    speedup = _number(goal, wish, min(1.0, highest), highest, "times full depth's measured speed")
    return max((p for p in points if p.speedup_latency >= speedup), key=lambda p: (p.f1, p.speedup_latency))


def _accurate_enough(points: Sequence[OperatingPoint], goal: str, wish: object) -> OperatingPoint:
    lowest = min(point.f1_loss for point in points)
    loss = _number(goal, wish, lowest, math.inf, LOSS_UNIT)
    return max((p for p in points if p.f1_loss <= loss), key=lambda p: (p.speedup_latency, p.f1))


def _shallow_enough(points: Sequence[OperatingPoint], goal: str, wish: object) -> OperatingPoint:
    lowest = min(point.average_exit_layer for point in points)
    layer = _number(goal, wish, lowest, math.inf, "layers per sequence")
    return max((p for p in points if p.average_exit_layer <= layer), key=lambda p: (p.f1, -p.average_exit_layer))


def _preset(points: Sequence[OperatingPoint], goal: str, wish: object) -> OperatingPoint:
    found = next((point for point in points if wish in PRESETS and point.preset == wish), None)
    if found is None:
        raise BadInput(f"{goal} is {reprlib.repr(wish)}; expected one of {list(PRESETS)}")
    return found


def _number(goal: str, wish: object, lowest: float, highest: float, unit: str) -> float:
    is_number = isinstance(wish, int | float) and not isinstance(wish, bool)
    if not is_number or not lowest <= wish <= highest:  # type: ignore[operator]
        least = math.ceil(100 * lowest) / 100  # rounded inwards: what the message names can be had
        bounds = f"{least:g} or more" if math.isinf(highest) else f"{least:g} to {math.floor(100 * highest) / 100:g}"
        reach = f"this model's operating points reach {bounds} {unit}"
        raise BadInput(f"{goal} is {reprlib.repr(wish)}; {reach}" + ("" if is_number else "; expected a number"))
    return wish  # type: ignore[return-value] # an integer may be too large for a float


GOALS: Mapping[str, Callable[[Sequence[OperatingPoint], str, object], OperatingPoint]] = {
    "speedup": _fastest_enough,
    "max_f1_loss": _accurate_enough,
    "average_exit_layer": _shallow_enough,
    "preset": _preset,
}
