"""Whether requests are traced. What is imported for it is in `open_telemetry`, and only where somebody wants traces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from starlette.types import Scope

from service.errors import BadInput, ServiceError

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PACKAGES = "opentelemetry-sdk opentelemetry-exporter-otlp-proto-http"


class Tracing(Protocol):
    """Is told of requests for entities when they are answered; lines of streams are too many, and have no traces."""

    def answered(self, scope: Scope, timing_ms: Mapping[str, float], attributes: Mapping[str, str | int]) -> None:
        """Trace an answered request by its times: those of its stages, one after the other, and `total`."""

    def failed(self, scope: Scope, error: ServiceError) -> None:
        """Trace a request that ended now with an error."""

    def close(self) -> None:
        """Send what was not sent yet."""


class Untraced:
    """Traces nothing."""

    def answered(self, scope: Scope, timing_ms: Mapping[str, float], attributes: Mapping[str, str | int]) -> None:
        """See Tracing."""

    def failed(self, scope: Scope, error: ServiceError) -> None:
        """See Tracing."""

    def close(self) -> None:
        """See Tracing."""


def tracing_of(environment: Mapping[str, str], model: str) -> Tracing:
    """Return what traces requests, as OpenTelemetry's own variables say; nothing does unless an endpoint is set.

    Raises BadInput for an endpoint without the packages that are needed to send anything there.
    """
    wanted = next((name for name in ENDPOINTS if environment.get(name)), None)
    if wanted is None or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return Untraced()
    try:
        from service.api.open_telemetry import OpenTelemetry  # here, since nobody else needs its packages
    except ModuleNotFoundError as error:
        raise BadInput(
            f"{wanted} is set, and the package {error.name} is not installed; `pip install {PACKAGES}`, or unset it"
        ) from error
    return OpenTelemetry.over_otlp(model)
