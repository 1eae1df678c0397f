"""What an operator's tools ask a process for: health, readiness, metrics (OPS-5, OPS-7)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

__all__ = ["Health", "Metrics", "Readiness", "operations", "routes", "samples_of", "summed"]


@dataclass(frozen=True, slots=True)
class Health:
    """How a process is.

    Attributes:
        parts: says of each part `ok`, or what is wrong with it.
        needed: the parts without which no request can be answered; the rest may be away for a while. All when None.
    """

    parts: Mapping[str, str] = field(default_factory=dict)
    needed: frozenset[str] | None = None

    @property
    def status(self) -> str:
        """`ok`, `degraded` where requests are answered all the same, or `unavailable`."""
        bad = {name for name, state in self.parts.items() if state != "ok"}
        if not bad:
            return "ok"
        return "unavailable" if self.needed is None or bad & self.needed else "degraded"


Readiness = Callable[[], Awaitable[Health]]
"""Looks how the process is."""

Metrics = Callable[[], Awaitable[Collector]]
"""Collects the metrics of more processes than this one."""


def samples_of(registry: Collector) -> list[Any]:
    """Metrics, fit for JSON."""
    return [
        [
            metric.name,
            metric.documentation,
            metric.type,
            [[each.name, each.labels, each.value] for each in metric.samples],
        ]
        for metric in registry.collect()
    ]


def summed(processes: Sequence[list[Any]]) -> Collector:
    """The metrics of several processes (`samples_of`) as one: what they count is added up."""
    families: dict[str, tuple[str, str, dict[tuple[Any, ...], float]]] = {}
    for name, documentation, kind, samples in (family for process in processes for family in process):
        values = families.setdefault(name, (documentation, kind, {}))[2]
        for sample, labels, value in samples:
            key = (sample, *labels.items())
            known = values.get(key)
            if known is None:
                values[key] = value
            else:
                values[key] = min(known, value) if sample.endswith("_created") else known + value
    return _Sums(families)


class _Sums(Collector):
    def __init__(self, families: Mapping[str, tuple[str, str, Mapping[tuple[Any, ...], float]]]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for name, (documentation, kind, values) in self._families.items():
            metric = Metric(name, documentation, kind)
            for (sample, *labels), value in values.items():
                metric.add_sample(sample, dict(labels), value)
            yield metric


def routes(ready: Readiness, registry: CollectorRegistry, metrics: Metrics | None = None) -> list[Route]:
    """`/healthz` (the process lives), `/readyz` (it answers requests) and `/metrics` (Prometheus).

    Args:
        ready: looks how the process is.
        registry: the metrics of this process.
        metrics: where its metrics are not all.
    """

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_: Request) -> Response:
        health = await ready()
        good = health.status != "unavailable"
        return JSONResponse(
            {"status": health.status, "parts": dict(health.parts)},
            status_code=200 if good else 503,
            headers={} if good else {"retry-after": "1"},
        )

    async def scrape(_: Request) -> Response:
        collector = registry if metrics is None else await metrics()
        return Response(generate_latest(collector), media_type=CONTENT_TYPE_LATEST)

    return [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", scrape)]


def operations(ready: Readiness, registry: CollectorRegistry) -> Starlette:
    """An application of these routes alone, for a process that answers nothing else over HTTP."""
    return Starlette(routes=routes(ready, registry))
