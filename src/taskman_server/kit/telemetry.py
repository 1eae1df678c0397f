"""Spans, metrics and logs of a service, by hand: one span and one observation a call, one log line a fault (OPS-5)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import structlog
from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import CollectorRegistry, Counter, Histogram

from taskman_sdk import contract
from taskman_sdk.errors import TaskManError

if TYPE_CHECKING:
    from taskman_server.kit.rpc.call import Call

__all__ = ["RpcSpan", "Telemetry"]

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2.5, 10)
_propagator = TraceContextTextMapPropagator()


class RpcSpan:
    """A call that is being answered."""

    __slots__ = ("_span", "code")

    def __init__(self, span: trace.Span | None) -> None:
        self._span = span
        self.code = "OK"

    def failed(self, error: TaskManError) -> TaskManError:
        """Notes how the call ended, and hands the error back."""
        self.code = error.code
        if self._span is not None:
            self._span.set_status(Status(StatusCode.ERROR, error.reason))
        return error


class Telemetry:
    """What one deployment measures; every service has a view of it under its name."""

    def __init__(self, service: str, registry: CollectorRegistry, tracer: trace.Tracer | None = None) -> None:
        """Args:
        service: the service's folder name.
        registry: where the metrics are collected, served at `/metrics`.
        tracer: makes OpenTelemetry spans; None for none.
        """
        self.service = service
        self.registry = registry
        self.log: structlog.stdlib.BoundLogger = structlog.get_logger(service=service)
        self._tracer = tracer
        self._metrics = _metrics(registry)
        self._calls: dict[tuple[str, str], tuple[Any, Any]] = {}

    @contextmanager
    def rpc(self, method: contract.Method, call: Call) -> Iterator[RpcSpan]:
        """Around the answering of one call: RED metrics, and a span where tracing is on."""
        started = time.perf_counter()
        if self._tracer is None:
            observed = RpcSpan(None)
            try:
                yield observed
            finally:
                self._observe(method, observed.code, time.perf_counter() - started)
            return
        with self._span(method.path, SpanKind.SERVER, call.traceparent) as (span, traceparent):
            span.set_attributes(
                {
                    "rpc.system": "grpc",
                    "rpc.service": method.service,
                    "rpc.method": method.name,
                    "taskman.service": self.service,
                    "taskman.request_id": call.request_id,
                }
            )
            call.traceparent = traceparent
            observed = RpcSpan(span)
            try:
                yield observed
            finally:
                self._observe(method, observed.code, time.perf_counter() - started)

    @contextmanager
    def edge(self, method: contract.Method, verb: str, traceparent: str) -> Iterator[str]:
        """Around a request at the edge: its span, as the W3C trace context that goes on to the service."""
        if self._tracer is None or method.route is None:
            yield traceparent
            return
        with self._span(f"{verb} {method.route.template}", SpanKind.SERVER, traceparent) as (span, inner):
            span.set_attributes({"http.request.method": verb, "http.route": method.route.template})
            yield inner

    @contextmanager
    def _span(self, name: str, kind: SpanKind, traceparent: str) -> Iterator[tuple[trace.Span, str]]:
        assert self._tracer is not None
        parent = _propagator.extract({"traceparent": traceparent}) if traceparent else None
        with self._tracer.start_as_current_span(name, parent, kind, record_exception=False) as span:
            carrier: dict[str, str] = {}
            _propagator.inject(carrier)
            yield span, carrier.get("traceparent", traceparent)

    def _observe(self, method: contract.Method, code: str, seconds: float) -> None:
        key = (method.path, code)
        pair = self._calls.get(key)
        if pair is None:
            labels = {"service": method.service, "method": method.name}
            pair = self._calls[key] = (
                self._metrics.calls.labels(code=code, **labels),
                self._metrics.seconds.labels(**labels),
            )
        pair[0].inc()
        pair[1].observe(seconds)

    def fault(self, method: contract.Method, request_id: str, error: BaseException) -> None:
        """Logs a fault of ours with its traceback; the caller only sees the request id."""
        self.log.error("fault", method=method.operation_id, request_id=request_id, exc_info=error)

    def request(
        self,
        *,
        verb: str,
        route: str,
        path: str,
        status: int,
        seconds: float,
        principal: str,
        request_id: str,
        ip_address: str,
        reason: str,
    ) -> None:
        """One line for each request at the edge, without query, body or token; and its metrics (GATE-7)."""
        self._metrics.requests.labels(route or "none", str(status)).inc()
        log = self.log.warning if status >= 500 else self.log.info
        log(
            "request",
            verb=verb,
            route=route,
            path=path,
            status=status,
            ms=round(seconds * 1000, 2),
            principal=principal,
            request_id=request_id,
            ip=ip_address,
            **({"reason": reason} if reason else {}),
        )


class _Metrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.calls = Counter(
            "taskman_rpc_calls", "Calls answered, by outcome.", ["service", "method", "code"], registry=registry
        )
        self.seconds = Histogram(
            "taskman_rpc_duration_seconds",
            "Time to answer.",
            ["service", "method"],
            registry=registry,
            buckets=_BUCKETS,
        )
        self.requests = Counter(
            "taskman_http_requests", "Requests at the edge, by status.", ["route", "status"], registry=registry
        )


@cache
def _metrics(registry: CollectorRegistry) -> _Metrics:
    return _Metrics(registry)
