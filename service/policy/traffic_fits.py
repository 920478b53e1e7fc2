"""Operating points that were fitted to the traffic of one server, by numbers, and the file that keeps them.

How they are fitted is known elsewhere. The points of one fit are in force beside the model's own, or none; earlier fits
are kept, so that there is a way back and policies of theirs keep their meaning.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from service.errors import BadInput, ModelRefused
from service.exits.assets import ModelAssets
from service.exits.catalog import PolicyCatalog
from service.exits.operating_points import OperatingPoint, read_point
from service.exits.policies.learned import ExitRule
from service.exits.policies.learned_on_traffic import LearnedOnTraffic, TrafficRules
from service.exits.policy import ExitPolicy
from service.files import locked, mark_of, set_aside, write_whole

log = logging.getLogger(__name__)

FITS_KEPT = 10
MOST_PROVENANCE_BYTES = 10_000
MOST_POINTS = 64
DEFAULT_LOSS = 1.0  # F1 x 100 against full depth: of the point whose parameters are the strategy's defaults


@dataclass(frozen=True, slots=True)
class TrafficFit:
    """One fit to the traffic.

    number      by which policies name it; a later fit has a higher one
    at          when it was installed, ISO 8601 in UTC
    points      cheapest first; their F1 is that against full depth's answers, on samples of the traffic
    provenance  what the figures hold for
    """

    number: int
    at: str
    rule: ExitRule
    points: tuple[OperatingPoint, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return {
            "fit": self.number,
            "at": self.at,
            "rule": self.rule.to_json(),
            "points": [point.to_json() for point in self.points],
            "provenance": dict(self.provenance),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], num_layers: int) -> TrafficFit:
        """Read what `to_json` returned, or what was fitted, with a number and a time. Raises BadInput."""
        try:
            number, at = data["fit"], data["at"]
            if type(number) is not int or number < 1 or not isinstance(at, str):
                raise BadInput(f"fit is {number!r}, at {at!r}; expected a number from 1 on, and a time")
            rule = ExitRule.from_json(data["rule"], num_layers)
            catalog = PolicyCatalog(ModelAssets(num_layers, assets=(TrafficRules({number: rule}),)))
            points = tuple(_read(item, number, catalog) for item in data["points"])
            provenance = dict(data["provenance"])
            told = json.dumps(provenance, ensure_ascii=False, allow_nan=False).encode("utf-8")
            if len(told) > MOST_PROVENANCE_BYTES:
                raise BadInput(f"provenance has {len(told)} bytes; expected at most {MOST_PROVENANCE_BYTES}")
        except (LookupError, TypeError, ValueError, OverflowError, RecursionError, ModelRefused, BadInput) as error:
            raise BadInput(f"these are no operating points of the traffic: {error}") from error
        if not 1 <= len(points) <= MOST_POINTS:
            raise BadInput(f"given {len(points)} operating points of the traffic; expected 1 to {MOST_POINTS}")
        return cls(number, at, rule, points, provenance)


def _read(item: Mapping[str, Any], number: int, catalog: PolicyCatalog) -> OperatingPoint:
    """Read a point, which names its parameters among its figures, or as `to_json` of a point does."""
    figures = dict(item)
    given = figures.pop("parameters", None) or {name: figures.pop(name) for name in ("tau", "deepest_exit")}
    parameters = {**given, "strategy": LearnedOnTraffic.strategy, "fit": number}
    return replace(read_point({**figures, "parameters": parameters}, catalog), preset=None)


@dataclass(frozen=True, slots=True)
class TrafficFits:
    """The fits that are kept, oldest first.

    in_force  the number of the one whose points are offered and tested; 0 for the model's own points alone
    """

    kept: tuple[TrafficFit, ...] = ()
    in_force: int = 0

    @property
    def current(self) -> TrafficFit | None:
        """The fit in force."""
        return next((fit for fit in self.kept if fit.number == self.in_force), None)

    @property
    def next_number(self) -> int:
        """Of the next fit."""
        return max((fit.number for fit in self.kept), default=0) + 1

    def with_new(self, fit: TrafficFit, needed: int | None) -> TrafficFits:
        """Return the fits with a new one, in force; the oldest go, but not the one that is `needed`."""
        kept = (*self.kept, fit)
        gone = [one for one in kept[:-1] if one.number != needed][: max(0, len(kept) - FITS_KEPT)]
        return TrafficFits(tuple(one for one in kept if one not in gone), fit.number)

    def with_in_force(self, number: object) -> TrafficFits:
        """Return the fits with another one in force, 0 for none. Raises BadInput for one that is not kept."""
        known = [0, *(fit.number for fit in self.kept)]
        if type(number) is not int or number not in known:
            raise BadInput(f"in_force is {number!r}; expected one of {known}: a fit, or 0 for the model's own points")
        return replace(self, in_force=number)

    def expected(self, policy: ExitPolicy) -> dict[str, Any] | None:
        """Return what was measured for exactly this policy, or None if it is no point of a fit."""
        points = (point for fit in self.kept for point in fit.points)
        return next((point.expected() for point in points if point.parameters == policy.to_json()), None)

    def catalog(self, catalog: PolicyCatalog) -> PolicyCatalog:
        """Return the catalog of a model with the policies of these fits, in place of those of others."""
        others = tuple(asset for asset in catalog.model.assets if not isinstance(asset, TrafficRules))
        rules = TrafficRules({fit.number: fit.rule for fit in self.kept}) if self.kept else None
        model = replace(catalog.model, assets=others).with_asset(rules)
        strategy = LearnedOnTraffic.strategy
        defaults = {name: values for name, values in catalog.defaults.items() if name != strategy}
        if self.kept:
            fit = self.current or self.kept[-1]
            within = [point for point in fit.points if point.f1_loss <= DEFAULT_LOSS]
            point = within[0] if within else min(fit.points, key=lambda point: point.f1_loss)
            defaults[strategy] = point.parameters
        return PolicyCatalog(model, defaults)

    def to_json(self) -> dict[str, Any]:
        """Return them as plain JSON types."""
        return {"in_force": self.in_force, "fits": [fit.to_json() for fit in self.kept]}


class TrafficFitFile:
    """Keeps the fits in a folder; the serving processes on one state folder share it."""

    def __init__(self, folder: Path, model: str, num_layers: int) -> None:
        """model: name@version and checksum; fits of other weights are set aside."""
        self._path = folder / "traffic_fits.json"
        self._model = model
        self._num_layers = num_layers
        self._seen: tuple[int, int] | None = None

    @property
    def has_changed(self) -> bool:
        """Whether it is not as it was read or written last."""
        return mark_of(self._path) != self._seen

    def load(self) -> TrafficFits:
        """Return the fits; none where there is no file, or none that can be used. Raises OSError."""
        with locked(self._path.parent):
            return self._load()

    def change(self, make: Callable[[TrafficFits], TrafficFits]) -> TrafficFits:
        """Replace the fits by what `make` returns for them, and return that. Raises OSError, and what `make` does."""
        with locked(self._path.parent):
            changed = make(self._load())
            write_whole(self._path, json.dumps({"model": self._model, **changed.to_json()}) + "\n")
            self._seen = mark_of(self._path)
            return changed

    def _load(self) -> TrafficFits:
        self._seen = mark_of(self._path)
        if self._seen is None:
            return TrafficFits()
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            if kept["model"] == self._model:
                fits = TrafficFits(tuple(TrafficFit.from_json(one, self._num_layers) for one in kept["fits"]))
                return fits.with_in_force(kept["in_force"])
            why = "it is of other weights"
        except (ValueError, LookupError, TypeError, RecursionError, BadInput) as error:
            why = str(error)
        aside = set_aside(self._path)
        self._seen = None
        log.warning("fits to the traffic set aside", extra={"data": {"reason": why, "file": str(aside)}})
        return TrafficFits()
