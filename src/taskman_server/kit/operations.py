"""What an operator's tools ask a process for: health, readiness, metrics (OPS-5, OPS-7)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

__all__ = ["Health", "Readiness", "operations", "routes"]


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


def routes(ready: Readiness, registry: CollectorRegistry) -> list[Route]:
    """`/healthz` (the process lives), `/readyz` (it answers requests) and `/metrics` (Prometheus)."""

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

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)]


def operations(ready: Readiness, registry: CollectorRegistry) -> Starlette:
    """An application of these routes alone, for a process that answers nothing else over HTTP."""
    return Starlette(routes=routes(ready, registry))
