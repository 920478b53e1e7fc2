"""The exit strategies, one file each. Every strategy that a file of this folder defines is registered automatically."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from inspect import isabstract
from pkgutil import iter_modules

from service.exits.policy import LAST_LAYER, ExitPolicy, ExitReason


def _strategies() -> Iterator[type[ExitPolicy]]:
    for module in sorted(found.name for found in iter_modules(__path__)):
        for value in vars(import_module(f"{__name__}.{module}")).values():
            is_own = isinstance(value, type) and value.__module__ == f"{__name__}.{module}"
            if is_own and issubclass(value, ExitPolicy) and not isabstract(value):
                yield value


STRATEGIES: Mapping[str, type[ExitPolicy]] = {strategy.strategy: strategy for strategy in _strategies()}
EXIT_REASONS: tuple[ExitReason, ...] = (
    *dict.fromkeys(reason for strategy in STRATEGIES.values() for reason in strategy.reasons),
    LAST_LAYER,
)
