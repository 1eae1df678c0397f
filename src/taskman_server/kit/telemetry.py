"""Spans, metrics and logs of a service, by hand: one span and one observation a call, one log line a fault (OPS-5)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, Protocol

import structlog
from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from taskman_sdk import contract
from taskman_sdk.errors import TaskManError
from taskman_server.kit.logs import request_log

__all__ = ["CacheUse", "RpcSpan", "Telemetry"]

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2.5, 10)
_QUERY_BUCKETS = (0.00005, 0.0001, 0.00025, *_BUCKETS)  # SQLite answers in microseconds
_propagator = TraceContextTextMapPropagator()


class CacheUse:
    """How often a cache had what was looked for. Plain numbers, read when the metrics are: a look costs 20 ns."""

    __slots__ = ("hits", "misses")

    def __init__(self) -> None:
        self.hits = 0
        self.misses = 0


class Answered(Protocol):
    """A call that is answered, or passed on."""

    traceparent: str

    @property
    def request_id(self) -> str: ...


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
        self._requests = request_log(service)
        self._tracer = tracer
        self._metrics = _metrics(registry)
        self._calls: dict[tuple[str, str], tuple[Any, Any]] = {}
        self._edge: dict[tuple[str, int], tuple[Any, Any]] = {}
        self._queries: dict[str, Any] = {}

    @contextmanager
    def rpc(self, method: contract.Method, call: Answered) -> Iterator[RpcSpan]:
        """Around the answering of one call: RED metrics, and a span where tracing is on, which the call carries on."""
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
    def event(self, name: str, queue: str, traceparent: str, identifier: str) -> Iterator[None]:
        """Around a consumer's handling of an event: a span of the trace that the event was made in."""
        if self._tracer is None:
            yield
            return
        with self._span(f"process {name}", SpanKind.CONSUMER, traceparent) as (span, _):
            span.set_attributes(_messaging("process", queue, identifier) | {"taskman.service": self.service})
            yield

    def published(self, name: str, traceparent: str, identifier: str, seconds: float) -> None:
        """Notes that the broker has confirmed an event, `seconds` after it was sent."""
        if self._tracer is None or not traceparent:
            return
        end = time.time_ns()
        parent = _propagator.extract({"traceparent": traceparent})
        start = end - int(seconds * 1e9)
        attributes = _messaging("publish", name, identifier) | {"taskman.service": self.service}
        self._tracer.start_span(f"publish {name}", parent, SpanKind.PRODUCER, attributes, start_time=start).end(end)

    def query(self, kind: str, seconds: float, system: str = "postgresql") -> None:
        """Notes a statement that the database has answered: `kind` is `read`, `write` …, never its text."""
        child = self._queries.get(kind)
        if child is None:
            child = self._queries[kind] = self._metrics.queries.labels(self.service, kind)
        child.observe(seconds)
        if self._tracer is None or not trace.get_current_span().is_recording():
            return
        end = time.time_ns()
        attributes = {"db.system": system, "db.operation": kind, "taskman.service": self.service}
        start = end - int(seconds * 1e9)
        self._tracer.start_span(kind, kind=SpanKind.CLIENT, attributes=attributes, start_time=start).end(end)

    def cache(self, name: str) -> CacheUse:
        """What a cache of this service counts by; the same for the same name."""
        return self._metrics.caches.use(self.service, name)

    def redis(self, outcome: str, commands: int, seconds: float) -> None:
        """Notes a round trip to Redis: `ok` or `failed`; or commands `skipped`, as it was known not to answer."""
        self._metrics.redis.labels(self.service, outcome).inc(commands)
        if outcome != "skipped":
            self._metrics.redis_seconds.labels(self.service).observe(seconds)

    def refused(self, mode: str) -> None:
        """Notes a request beyond the rate limit: `enforced`, or `shadow` when it was let through all the same."""
        self._metrics.refused.labels(self.service, mode).inc()

    def admission(self, limit: Callable[[], float]) -> None:
        """How many requests may be in the system, looked at when the metrics are read."""
        self._metrics.admission.labels(self.service).set_function(limit)

    def turned_away(self, priority: str) -> None:
        """Notes a request that was refused because there was too much to do."""
        self._metrics.turned_away.labels(self.service, priority).inc()

    @property
    def traced(self) -> bool:
        """Whether spans are made."""
        return self._tracer is not None

    def pool(self, size: Callable[[], float], idle: Callable[[], float], most: int) -> None:
        """The database's pool, looked at when the metrics are read."""
        pool = self._metrics.pool
        pool.labels(self.service, "busy").set_function(lambda: size() - idle())
        pool.labels(self.service, "idle").set_function(idle)
        self._metrics.pool_max.labels(self.service).set(most)

    def dependencies(self, states: Mapping[str, str]) -> None:
        """What this process stands on, as `/readyz` has it: `ok`, or what is wrong."""
        for name, state in states.items():
            self._metrics.dependencies.labels(self.service, name).set(float(state == "ok"))

    def peer(self, what: str, service: str) -> None:
        """Notes that a call to a peer had to be made again (`retry`), was held back by the breaker (`refused`), or
        reached nobody (`unreachable`)."""
        self._metrics.peers.labels(self.service, service, what).inc()

    def certificate(self, expires: Callable[[], float]) -> None:
        """When this process's certificate ends, in seconds since 1970, looked at when the metrics are read."""
        self._metrics.certificate.labels(self.service).set_function(expires)

    def messages(self, what: str, queue: str, number: int) -> None:
        """Counts messages `published`, `confirmed`, `returned` (of no queue), `delivered`, `retried`, `dead`."""
        self._metrics.messages.labels(self.service, queue, what).inc(number)

    def backlog(self, events: int, oldest_seconds: float) -> None:
        """How many events wait in the outbox, and for how long the oldest."""
        self._metrics.backlog.labels(self.service).set(events)
        self._metrics.oldest.labels(self.service).set(oldest_seconds)

    def queue(self, name: str, ready: int, dead: int) -> None:
        """How many messages wait in a queue, and how many were given up."""
        self._metrics.queues.labels(name, "ready").set(ready)
        self._metrics.queues.labels(name, "dead").set(dead)

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
        traceparent: str = "",
    ) -> None:
        """One line for each request at the edge, without query, body or token; and its metrics (GATE-7)."""
        pair = self._edge.get((route, status))
        if pair is None:
            pair = self._edge[route, status] = (
                self._metrics.requests.labels(route or "none", str(status)),
                self._metrics.request_seconds.labels(route or "none"),
            )
        pair[0].inc()
        pair[1].observe(seconds)
        trace_id = traceparent[3:35]
        if self._requests is not None:
            self._requests.write(
                "warning" if status >= 500 else "info",
                verb=verb,
                route=route,
                path=path,
                status=status,
                seconds=seconds,
                principal=principal,
                request_id=request_id,
                ip_address=ip_address,
                reason=reason,
                trace_id=trace_id,
            )
            return
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
            **({"trace_id": trace_id} if trace_id else {}),
        )


def _messaging(operation: str, destination: str, identifier: str) -> dict[str, str]:
    return {
        "messaging.system": "rabbitmq",
        "messaging.operation": operation,
        "messaging.destination.name": destination,
        "messaging.message.id": identifier,
    }


class _Caches(Collector):
    def __init__(self) -> None:
        self._uses: dict[tuple[str, str], CacheUse] = {}

    def use(self, service: str, name: str) -> CacheUse:
        return self._uses.setdefault((service, name), CacheUse())

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(
            "taskman_cache_requests", "Looks into a cache, by result.", labels=["service", "cache", "result"]
        )
        for (service, name), use in self._uses.items():
            family.add_metric([service, name, "hit"], use.hits)
            family.add_metric([service, name, "miss"], use.misses)
        yield family


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
        self.request_seconds = Histogram(
            "taskman_http_duration_seconds",
            "Time to answer at the edge.",
            ["route"],
            registry=registry,
            buckets=_BUCKETS,
        )
        self.queries = Histogram(
            "taskman_database_query_seconds",
            "Time that the database took for a statement.",
            ["service", "kind"],
            registry=registry,
            buckets=_QUERY_BUCKETS,
        )
        self.caches = _Caches()
        registry.register(self.caches)
        self.redis = Counter(
            "taskman_redis_commands", "Commands to Redis, by outcome.", ["service", "outcome"], registry=registry
        )
        self.redis_seconds = Histogram(
            "taskman_redis_duration_seconds",
            "Time of a round trip to Redis.",
            ["service"],
            registry=registry,
            buckets=_BUCKETS,
        )
        self.refused = Counter(
            "taskman_rate_limit_refused", "Requests beyond the rate limit.", ["service", "mode"], registry=registry
        )
        self.admission = Gauge(
            "taskman_admission_limit", "Requests that may be in the system.", ["service"], registry=registry
        )
        self.turned_away = Counter(
            "taskman_admission_refused", "Requests beyond what can be done.", ["service", "priority"], registry=registry
        )
        self.pool = Gauge(
            "taskman_database_pool_connections", "Connections of the pool.", ["service", "state"], registry=registry
        )
        self.pool_max = Gauge(
            "taskman_database_pool_max", "Connections that the pool may have.", ["service"], registry=registry
        )
        self.dependencies = Gauge(
            "taskman_dependency_up", "Whether what the process needs answers.", ["service", "dependency"],
            registry=registry,
        )  # fmt: skip
        self.peers = Counter(
            "taskman_peer_faults", "Calls to peers that did not go through at once.", ["service", "peer", "what"],
            registry=registry,
        )  # fmt: skip
        self.messages = Counter(
            "taskman_broker_messages", "Messages to and from the broker.", ["service", "queue", "outcome"],
            registry=registry,
        )  # fmt: skip
        self.certificate = Gauge(
            "taskman_certificate_expires_seconds", "When the certificate ends, since 1970.", ["service"],
            registry=registry,
        )  # fmt: skip
        self.backlog = Gauge(
            "taskman_outbox_backlog", "Events committed and not published.", ["service"], registry=registry
        )
        self.oldest = Gauge(
            "taskman_outbox_oldest_seconds", "Age of the oldest event not published.", ["service"], registry=registry
        )
        self.queues = Gauge(
            "taskman_queue_messages", "Messages in a queue, by state.", ["queue", "state"], registry=registry
        )


@cache
def _metrics(registry: CollectorRegistry) -> _Metrics:
    return _Metrics(registry)
