"""The gateway as a process of its own: REST and gRPC for clients, calls to the services behind (OPS-2)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from taskman_server.app.process import NOTICE_SECONDS, SAMPLE_SECONDS, Process, process_of
from taskman_server.app.serving import serving
from taskman_server.app.units import SERVICES
from taskman_server.gateway.app import Gateway
from taskman_server.gateway.pages import pages
from taskman_server.kit.forwarded import networks
from taskman_server.kit.guard import Guard
from taskman_server.kit.identity import Authenticator
from taskman_server.kit.operations import Health
from taskman_server.kit.rpc.edge import Forwarder
from taskman_server.kit.rpc.server import CONNECTION_AGE, GrpcServer
from taskman_server.settings import SERVICES as NAMES
from taskman_server.settings import Settings

if TYPE_CHECKING:
    import socket


__all__ = ["run_gateway"]

GATEWAY: Final = "gateway"


async def run_gateway(
    settings: Settings, stop: asyncio.Event, listener: socket.socket, started: Callable[[], None]
) -> None:
    """Runs the gateway until `stop` is set; then requests under way end.

    Args:
        settings: with the port known (`Settings.with_port`).
        stop: set when the process is to end.
        listener: where requests come in.
        started: called when all services have answered for the first time.

    Raises:
        TlsError: the process's certificate cannot be read.
        OSError: the gRPC port is taken.
    """
    async with process_of(GATEWAY, settings, stop) as process:
        process.connect()
        telemetry, channels, clock = process.telemetry, process.channels, process.clock
        edge = _Edge(process)
        authenticator = Authenticator(channels, GATEWAY, clock, telemetry, process.redis)
        guard = Guard(channels, GATEWAY, telemetry, process.redis)
        beside = pages(edge.health, process.registry, settings.public_url)
        gateway = Gateway(channels, authenticator, guard, settings, clock, telemetry, beside, redis=process.redis)
        grpc = None
        if settings.grpc_port >= 0:
            grpc = GrpcServer(
                [each.contract for each in SERVICES],
                Forwarder(channels, authenticator, telemetry, request_timeout=settings.request_timeout_seconds),
                authenticator=authenticator,
                limiter=gateway.limiter,
                connection_age=CONNECTION_AGE,
                proxies=networks(settings.trusted_proxies),
            )
            await grpc.start(settings.host, settings.grpc_port)
        async with serving(gateway, listener, drain_seconds=settings.drain_seconds):
            watching = asyncio.create_task(edge.watch(started))
            await stop.wait()
            edge.draining = True
            watching.cancel()
            if grpc is not None:
                await grpc.serving(False)
            await asyncio.sleep(min(NOTICE_SECONDS, settings.drain_seconds))
            # Both ports get the same time, not one after the other.
            ending = asyncio.create_task(grpc.stop(settings.drain_seconds)) if grpc is not None else None
        if ending is not None:
            await ending


class _Edge:
    """How the gateway is: ready when every service has answered once, and those without which nothing can be answered
    do so now."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._seen: set[str] = set()
        self.draining = False

    async def health(self) -> Health:
        """Looks at the services' channels."""
        peers = self._process.peers
        parts = {name: "ok" if peer.ready() else "it does not answer" for name, peer in peers.items()}
        self._seen.update(name for name, state in parts.items() if state == "ok")
        needed = {"authentication", "authorization", "process"} | (set(NAMES) - self._seen)
        if self.draining:
            parts["process"] = "it is stopping"
        return Health(parts | self._process.states(), frozenset(needed))

    async def watch(self, started: Callable[[], None]) -> None:
        """Keeps the metrics, and says when all are there."""
        said = False
        while True:
            health = await self.health()
            self._process.telemetry.dependencies(health.parts)
            if not said and health.status != "unavailable":
                said = True
                started()
            await asyncio.sleep(SAMPLE_SECONDS if said else 0.1)
