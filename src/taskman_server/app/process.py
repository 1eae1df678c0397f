"""What a service's process and the gateway's have in common (OPS-2).

Processes start in any order: each waits for what it needs, answers `/healthz` from the first moment, `/readyz` once it
can work, and gives its calls time to end when it is stopped (OPS-7).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Final, TypeVar

from prometheus_client import CollectorRegistry

from taskman_sdk.errors import TaskManError
from taskman_server.app.units import SERVICES
from taskman_server.kit.broker import BrokerError
from taskman_server.kit.clock import SystemClock
from taskman_server.kit.db import DatabaseError
from taskman_server.kit.db.migrate import MigrationError
from taskman_server.kit.redis import Redis
from taskman_server.kit.rpc import Channels
from taskman_server.kit.rpc.peers import PeerChannel
from taskman_server.kit.telemetry import Telemetry
from taskman_server.kit.tls import Identity, TlsError
from taskman_server.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

__all__ = ["NOTICE_SECONDS", "PAUSE", "SAMPLE_SECONDS", "Process", "Stopped", "identity_of", "process_of", "state_of"]

T = TypeVar("T")
PAUSE: Final = (0.2, 5.0)
"""Seconds between two tries to get what is needed: the first, and the longest."""
SAMPLE_SECONDS: Final = 5.0
"""Seconds between two looks at what nobody counts."""
NOTICE_SECONDS: Final = 0.25
"""Seconds from saying that the process stops until its ports close."""


@dataclass(slots=True)
class Process:
    """What a service's process and the gateway's have in common."""

    name: str
    settings: Settings
    stop: asyncio.Event
    clock: SystemClock
    registry: CollectorRegistry
    tracer: Tracer | None
    telemetry: Telemetry
    identity: Identity | None
    redis: Redis | None
    channels: Channels = field(default_factory=lambda: Channels({}))
    peers: dict[str, PeerChannel] = field(default_factory=dict)
    parts: dict[str, str] = field(default_factory=dict)

    def connect(self, but: str = "") -> None:
        """Channels to the services; they connect when they are used."""
        for definition in SERVICES:
            if definition.name == but:
                continue
            address = self.settings.address_of(definition.name)
            peer = PeerChannel(definition.name, address, self.identity, observe=self.telemetry.peer)
            self.peers[definition.name] = peer
            self.channels.add(definition.area, peer)

    async def obtain(self, part: str, make: Callable[[], Awaitable[T]]) -> T:
        """Makes a part, again and again until it can be had.

        Raises:
            Stopped: the process is to end.
        """
        pause, said = PAUSE[0], ""
        while not self.stop.is_set():
            try:
                made = await make()
            except MigrationError:
                raise  # waiting mends none of these
            except (DatabaseError, BrokerError, TaskManError, OSError) as error:
                self.parts[part] = str(error) or type(error).__name__
                if self.parts[part] != said:
                    said = self.parts[part]
                    self.telemetry.log.warning("waits for what it needs", part=part, reason=said)
            else:
                self.parts[part] = "ok"
                return made
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self.stop.wait()
            pause = min(pause * 2, PAUSE[1])
        raise Stopped

    def states(self) -> dict[str, str]:
        """What `/readyz` says of Redis and of the process's certificate, where there are any."""
        found = {}
        if self.redis is not None:
            found["redis"] = self.redis.reason or "ok"
        if self.identity is not None:
            found["certificate"] = state_of(self.identity, self.clock.now())
        return found


class Stopped(Exception):
    """The process was told to end before it was ready."""


@asynccontextmanager
async def process_of(name: str, settings: Settings, stop: asyncio.Event) -> AsyncIterator[Process]:
    async with AsyncExitStack() as stack:
        tracer = None
        if settings.otlp_endpoint:
            from taskman_server.kit.tracing import open_tracer

            tracer = stack.enter_context(open_tracer(settings.otlp_endpoint, name))
        registry = CollectorRegistry()
        telemetry = Telemetry(name, registry, tracer)
        redis = await Redis.open(settings.redis_url, name, telemetry) if settings.redis_url else None
        if redis is not None:
            stack.push_async_callback(redis.close)
        identity = identity_of(settings, name)
        if identity is not None:
            telemetry.certificate(lambda: identity.material.expires.timestamp())
        process = Process(name, settings, stop, SystemClock(), registry, tracer, telemetry, identity, redis)
        if (state := process.states().get("certificate", "ok")) != "ok":
            telemetry.log.error("no other process will talk to this one", certificate=state)
        yield process
        await asyncio.gather(*(peer.close() for peer in process.peers.values()))


def state_of(identity: Identity, now: datetime) -> str:
    """`ok`, or why other processes refuse this one's certificate, or will when it ends."""
    material = identity.material
    if material.expires <= now:
        return f"it ended on {material.expires:%Y-%m-%d %H:%M} UTC: renew it, it is taken without a restart"
    if material.begins > now:
        return f"it is good from {material.begins:%Y-%m-%d %H:%M} UTC on: is the clock of this machine right?"
    return f"its files have changed and are not taken: {identity.problem}" if identity.problem else "ok"


def identity_of(settings: Settings, name: str) -> Identity | None:
    """A process's certificate; None where a mesh takes care of that.

    Raises:
        TlsError: it cannot be read; the message says how to make one.
    """
    if settings.mtls == "off":
        return None
    folder = settings.certs or settings.data / "certs"
    identity = Identity(
        settings.tls_cert_file or folder / f"{name}.crt",
        settings.tls_key_file or folder / f"{name}.key",
        settings.tls_ca_file or folder / "ca.crt",
    )
    if identity.service != name:
        raise TlsError(f"{identity.cert} is the certificate of {identity.service!r}, not of {name!r}")
    return identity
