"""OpenTelemetry, if it is installed and asked for: a span for each request, with one for each phase of its work.

It is asked for by OpenTelemetry's own variable OTEL_EXPORTER_OTLP_ENDPOINT. A `traceparent` header is continued. No
span has a prompt.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from kandinsky_runtime.distribution import installed
from kandinsky_runtime.errors import UsageError
from kandinsky_runtime.serving.jobs import Job

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


def set_up_tracing(environment: Mapping[str, str] = os.environ) -> Tracing | None:
    """The tracing of a server; None if the environment does not ask for it.

    Raises:
        UsageError: it is asked for, and OpenTelemetry is not installed.
    """
    if not environment.get(ENDPOINT):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{ENDPOINT} asks for traces, and {error.name} is not installed: pip install 'kandinsky22-deploy[otel]'"
        ) from error
    name, version = installed()
    resource = Resource.create({"service.name": "k22-serve", "service.version": f"{name} {version}"})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)


class Tracing:
    """Makes the spans of requests."""

    def __init__(self, provider: Any) -> None:
        """Use OpenTelemetry's provider of tracers."""
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("kandinsky_runtime.serving")
        self._propagator = TraceContextTextMapPropagator()

    def request(
        self, headers: Mapping[str, str], method: str, route: str, status: int, begun: int, ended: int, job: Job | None
    ) -> None:
        """Make the span of an answered request, and of the phases of its job.

        Args:
            headers: the request's, by their names in small letters.
            method, route, status: of the request and its answer.
            begun, ended: nanoseconds since 1970.
            job: the job that the request made, if it has ended.
        """
        from opentelemetry import trace

        parent = self._propagator.extract(dict(headers))
        attributes = {"http.request.method": method, "http.route": route, "http.response.status_code": status}
        span = self._tracer.start_span(f"{method} {route}", parent, trace.SpanKind.SERVER, attributes, start_time=begun)
        if job is not None:
            span.set_attributes({"k22.job": job.id, "k22.model": job.model.name, "k22.steps": job.steps})
            inside = trace.set_span_in_context(span)
            for phase, times in job.phases.items():
                part = self._tracer.start_span(phase, inside, start_time=times.begun)
                part.set_attribute("k22.units", times.units)
                part.end(times.ended)
        if status >= 500:
            span.set_status(trace.StatusCode.ERROR)
        span.end(ended)

    def close(self) -> None:
        """Send what has not been sent."""
        self._provider.shutdown()
