"""The exit strategies, one file each. Every strategy that a file of this folder defines is registered automatically."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from inspect import isabstract
from pkgutil import iter_modules

from service.exits.policy import LAST_LAYER, ExitPolicy, ExitReason

DECLARED = ("strategy", "title", "origin", "meaning", "display")  # without a default


def _strategies() -> Iterator[type[ExitPolicy]]:
    for module in sorted(found.name for found in iter_modules(__path__)):
        for value in vars(import_module(f"{__name__}.{module}")).values():
            is_own = isinstance(value, type) and value.__module__ == f"{__name__}.{module}"
            if is_own and issubclass(value, ExitPolicy) and not isabstract(value):
                yield value


def _registered(strategies: Iterable[type[ExitPolicy]]) -> dict[str, type[ExitPolicy]]:
    """Return strategies by name. Raises TypeError for one that does not declare all, or whose name is taken."""
    registered: dict[str, type[ExitPolicy]] = {}
    for strategy in strategies:
        if missing := [name for name in DECLARED if not hasattr(strategy, name)]:
            raise TypeError(f"{strategy.__module__}.{strategy.__name__} does not declare {', '.join(missing)}")
        if other := registered.get(strategy.strategy):
            raise TypeError(f"{strategy.__module__} has a strategy {strategy.strategy!r}, as {other.__module__} has")
        registered[strategy.strategy] = strategy
    return registered


STRATEGIES: Mapping[str, type[ExitPolicy]] = _registered(_strategies())
EXIT_REASONS: tuple[ExitReason, ...] = (
    *dict.fromkeys(reason for strategy in STRATEGIES.values() for reason in strategy.reasons),
    LAST_LAYER,
)
