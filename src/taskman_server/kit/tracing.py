"""Traces leave by OTLP over HTTP, in batches, off the request's way (OPS-5)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Tracer

from taskman_sdk._version import __version__

__all__ = ["open_tracer"]


@contextmanager
def open_tracer(endpoint: str, service: str = "taskman") -> Iterator[Tracer]:
    """A tracer whose spans go to a collector; what is left is sent at the end.

    Args:
        endpoint: the collector's base address, for example `http://localhost:4318`; `/v1/traces` is added.
        service: the process's name in the traces (`service.name`).
    """
    resource = Resource.create({"service.name": service, "service.version": __version__})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=5)))
    try:
        yield provider.get_tracer("taskman")
    finally:
        provider.shutdown()
