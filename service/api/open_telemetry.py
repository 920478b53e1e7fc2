"""Traces of requests by OpenTelemetry: a span for each, with one for every stage in it. Sampling is the SDK's matter.

A request's spans are made when it is over, from the times that its answer tells, so that tracing takes no time before.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import Scope

from service import __version__
from service.api.errors import endpoint_of, status_of
from service.errors import ServiceError

NAME = "named-entities"  # unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES says otherwise


class OpenTelemetry:
    """Traces requests, as `Tracing` says; a request's header `traceparent` names the span that it belongs to."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("service", __version__)
        self._parents = TraceContextTextMapPropagator()

    @staticmethod
    def over_otlp(model: str) -> OpenTelemetry:
        """Return what sends traces, in a thread of its own, to where the variables of OpenTelemetry say."""
        ours = Resource.create({SERVICE_NAME: NAME, SERVICE_VERSION: __version__, "ner.model": model})
        provider = TracerProvider(resource=ours.merge(OTELResourceDetector().detect()))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return OpenTelemetry(provider)

    def answered(self, scope: Scope, timing_ms: Mapping[str, float], attributes: Mapping[str, str | int]) -> None:
        """See Tracing."""
        started_ns = _arrived_ns(scope)
        span = self._begin(scope, started_ns, 200)
        span.set_attributes(attributes)
        within, stage_ns = set_span_in_context(span), started_ns
        for stage, milliseconds in timing_ms.items():
            if stage != "total":
                part = self._tracer.start_span(stage, within, start_time=stage_ns)
                stage_ns += round(1e6 * milliseconds)
                part.end(stage_ns)
        span.end(max(stage_ns, started_ns + round(1e6 * timing_ms["total"])))

    def failed(self, scope: Scope, error: ServiceError) -> None:
        """See Tracing."""
        status = status_of(error)
        span = self._begin(scope, _arrived_ns(scope), status)
        span.set_attribute("error.type", type(error).__name__)
        if status >= 500:  # what the caller did is no fault of the server's
            span.set_status(StatusCode.ERROR, str(error))
        span.end()

    def close(self) -> None:
        """See Tracing."""
        self._provider.shutdown()

    def _begin(self, scope: Scope, started_ns: int, status: int) -> Span:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        endpoint = endpoint_of(scope)
        span: Span = self._tracer.start_span(
            f"{scope['method']} {endpoint}",
            self._parents.extract(headers),
            SpanKind.SERVER,
            {
                "http.request.method": scope["method"],
                "http.route": endpoint,
                "http.response.status_code": status,
                "ner.request_id": scope["state"]["request_id"],
            },
            start_time=started_ns,
        )
        return span


def _arrived_ns(scope: Scope) -> int:
    """Return when a request arrived, in nanoseconds of the wall clock."""
    arrived: float = scope["state"]["arrived"]
    return time.time_ns() - round(1e9 * (time.monotonic() - arrived))
