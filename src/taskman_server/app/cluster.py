"""The cluster shape: one service, or the gateway, as a process on PostgreSQL, RabbitMQ and Redis (OPS-2).

Processes start in any order: each waits for what it needs, answers `/healthz` from the first moment, `/readyz` once it
can work, and gives its calls time to end when it is stopped (OPS-7).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

import click
from prometheus_client import CollectorRegistry

from taskman_sdk.errors import AlreadyExistsError, InvalidArgumentError, TaskManError
from taskman_server import data_folder
from taskman_server.app.serving import serving
from taskman_server.app.units import SERVICES, Shared, Unit
from taskman_server.gateway.app import Gateway
from taskman_server.gateway.pages import pages
from taskman_server.kit.broker import BrokerError
from taskman_server.kit.broker.rabbitmq import RabbitBroker
from taskman_server.kit.clock import SystemClock
from taskman_server.kit.db import DatabaseError
from taskman_server.kit.db.migrate import MigrationError, upgrade
from taskman_server.kit.db.postgres import PostgresDatabase
from taskman_server.kit.guard import Guard
from taskman_server.kit.identity import Authenticator
from taskman_server.kit.operations import Health, operations
from taskman_server.kit.paging import Pager
from taskman_server.kit.redis import Redis, RedisWriteMarks
from taskman_server.kit.rpc import Channels, LocalChannel, ServiceDefinition
from taskman_server.kit.rpc.edge import Forwarder
from taskman_server.kit.rpc.peers import PeerChannel
from taskman_server.kit.rpc.server import GrpcServer
from taskman_server.kit.telemetry import Telemetry
from taskman_server.kit.tls import Identity
from taskman_server.services.authentication.first_start import ensure_administrator, issue_setup_token
from taskman_server.settings import SERVICES as NAMES
from taskman_server.settings import Settings

if TYPE_CHECKING:
    import socket

    from opentelemetry.trace import Tracer

__all__ = ["GATEWAY", "run_gateway", "run_service"]

T = TypeVar("T")
GATEWAY: Final = "gateway"
_PAUSE: Final = (0.2, 5.0)
_SAMPLE_SECONDS: Final = 5.0
_NOTICE_SECONDS: Final = 0.25


@dataclass(slots=True)
class _Process:
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
            peer = PeerChannel(definition.name, self.settings.address_of(definition.name), self.identity)
            self.peers[definition.name] = peer
            self.channels.add(definition.area, peer)

    async def obtain(self, part: str, make: Callable[[], Awaitable[T]]) -> T:
        """Makes a part, again and again until it can be had.

        Raises:
            _Stopped: the process is to end.
        """
        pause, said = _PAUSE[0], ""
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
            pause = min(pause * 2, _PAUSE[1])
        raise _Stopped

    def redis_state(self) -> dict[str, str]:
        """What `/readyz` says of Redis, where there is one."""
        if self.redis is None:
            return {}
        return {"redis": self.redis.reason or "ok"}


class _Stopped(Exception):
    """The process was told to end before it was ready."""


@asynccontextmanager
async def _process(name: str, settings: Settings, stop: asyncio.Event) -> AsyncIterator[_Process]:
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
        process = _Process(name, settings, stop, SystemClock(), registry, tracer, telemetry, identity, redis)
        yield process
        await asyncio.gather(*(peer.close() for peer in process.peers.values()))


def identity_of(settings: Settings, name: str) -> Identity | None:
    """A process's certificate; None where a mesh takes care of that.

    Raises:
        TlsError: it cannot be read; the message says how to make one.
    """
    if settings.mtls == "off":
        return None
    folder = settings.certs or settings.data / "certs"
    return Identity(
        settings.tls_cert_file or folder / f"{name}.crt",
        settings.tls_key_file or folder / f"{name}.key",
        settings.tls_ca_file or folder / "ca.crt",
    )


def _page_key(settings: Settings) -> bytes:
    secret = settings.secret_key.get_secret_value()
    if secret:
        return hmac.new(secret.encode(), b"taskman page tokens", hashlib.sha256).digest()
    return data_folder.secret(data_folder.open_folder(settings.data), data_folder.PAGING_KEY)


async def run_service(settings: Settings, name: str, stop: asyncio.Event, ops: socket.socket | None) -> None:
    """Runs one service until `stop` is set; then calls under way end, and nothing is left half done.

    Args:
        settings: with the port of the gateway known (`Settings.with_port`).
        name: the service's folder, for example `tasks`.
        stop: set when the process is to end.
        ops: where health and metrics are answered; None for nowhere.

    Raises:
        SettingsError: no database or broker is named.
        MigrationError: the database's schema is not one that this release can work on.
        TlsError: the process's certificate cannot be read.
        OSError: the gRPC port is taken.
    """
    definition = next(each for each in SERVICES if each.name == name)
    database_url, broker_url = settings.database_of(name), settings.broker()
    async with AsyncExitStack() as outer:
        process = await outer.enter_async_context(_process(name, settings, stop))
        service = _Service(process, definition)
        if ops is not None:
            answers = operations(service.health, process.registry)
            await outer.enter_async_context(serving(answers, ops, drain_seconds=1))
        try:
            async with AsyncExitStack() as stack:
                await service.start(stack, database_url, broker_url)
                await stop.wait()
                await service.drain()
        except _Stopped:
            return


class _Service:
    """One service as a process."""

    def __init__(self, process: _Process, definition: ServiceDefinition) -> None:
        self._process = process
        self._definition = definition
        self.draining = False
        self._started = False
        self._unit: Unit | None = None
        self._broker: RabbitBroker | None = None
        process.parts |= {"database": "not connected yet", "broker": "not connected yet"}

    async def start(self, stack: AsyncExitStack, database_url: str, broker_url: str) -> None:
        """Gets what it needs, in any order that it comes, and begins to answer."""
        process, definition, settings = self._process, self._definition, self._process.settings
        await process.obtain("database", lambda: asyncio.to_thread(upgrade, database_url, definition.migrations))
        db = await process.obtain("database", lambda: self._open_database(database_url))
        stack.push_async_callback(db.close)
        telemetry = process.telemetry
        telemetry.pool(lambda: db.stats().size, lambda: db.stats().idle, settings.database_pool_size)
        broker = await process.obtain("broker", lambda: RabbitBroker.open(broker_url, name=f"taskman-{process.name}"))
        self._broker = broker
        stack.push_async_callback(broker.close)
        process.connect(but=definition.name)
        shared = Shared(
            settings=settings,
            broker=broker,
            channels=process.channels,
            authenticator=Authenticator(process.channels, definition.name, process.clock, telemetry, process.redis),
            guard=Guard(process.channels, definition.name, telemetry, process.redis),
            pager=Pager(_page_key(settings)),
            clock=process.clock,
        )
        unit = self._unit = Unit.build(definition, db, shared, telemetry, process.redis)
        process.channels.add(definition.area, LocalChannel(unit.pipeline))
        await process.obtain("start", unit.begin)
        del process.parts["start"]
        stack.push_async_callback(unit.stop)
        await process.obtain("broker", lambda: _declare_queues(broker))
        await process.obtain("broker", unit.consume)
        unit.work()
        self.server = GrpcServer(definition.contract, unit.pipeline, identity=process.identity, trusted=True)
        await self.server.start(settings.host, settings.grpc_port_base + definition.port_offset)
        for work in (self._sample, *([self._first_start] if definition.name == "authentication" else [])):
            task = asyncio.create_task(work())
            stack.callback(task.cancel)
        self._started = True
        telemetry.log.info("ready", service=definition.name)

    async def drain(self) -> None:
        """Takes no new calls, and lets those under way end."""
        self.draining = True
        await self.server.serving(False)
        # Whoever watches our health has gone elsewhere before the port closes.
        await asyncio.sleep(min(_NOTICE_SECONDS, self._process.settings.drain_seconds))
        await self.server.stop(self._process.settings.drain_seconds)

    async def _open_database(self, url: str) -> PostgresDatabase:
        process = self._process
        return await PostgresDatabase.open(
            url,
            name=process.name,
            pool_size=process.settings.database_pool_size,
            statement_timeout=process.settings.database_statement_timeout_seconds,
            replica_url=process.settings.replica_of(process.name),
            marks=RedisWriteMarks(process.redis) if process.redis is not None else None,
            observe=process.telemetry.query,
        )

    async def health(self) -> Health:
        """How the process is. Without the broker events wait in the outbox, so that it goes on answering."""
        parts = dict(self._process.parts)
        if self._started and self._unit is not None:
            parts |= await self._look(self._unit)
        if self.draining:
            parts["process"] = "it is stopping"
        elif not self._started:
            parts["process"] = "it is starting"
        return Health(parts, frozenset({"database", "process"}))

    async def _look(self, unit: Unit) -> dict[str, str]:
        found = {"database": "ok", "broker": "ok"}
        try:
            await unit.relay.pending()
        except DatabaseError as error:
            found["database"] = str(error)
        assert self._broker is not None
        if not self._broker.connected:
            found["broker"] = "it does not answer; events wait in the outbox"
        return found | self._process.redis_state()

    async def _sample(self) -> None:
        """Looks every few seconds at what metrics tell and nobody else counts."""
        unit, broker, telemetry = self._unit, self._broker, self._process.telemetry
        assert unit is not None
        assert broker is not None
        own = list(self._definition.hears)
        while True:
            telemetry.dependencies((await self.health()).parts)
            with contextlib.suppress(DatabaseError, BrokerError):
                backlog = await unit.relay.backlog()
                telemetry.backlog(backlog.events, backlog.oldest_seconds)
                for queue, stats in (await broker.stats_of(own)).items():
                    telemetry.queue(queue, stats.ready, stats.dead)
            await asyncio.sleep(_SAMPLE_SECONDS)

    async def _first_start(self) -> None:
        """Makes the first administrator, or says how to, once the services that this takes answer."""
        assert self._unit is not None
        runtime, settings = self._unit.runtime, self._process.settings
        pause = _PAUSE[0]
        while True:
            try:
                if settings.admin_email:
                    password = settings.admin_password.get_secret_value()
                    await ensure_administrator(runtime, settings.admin_email, password, "Administrator")
                elif (token := await issue_setup_token(runtime)) is not None:
                    click.echo(
                        "There is no administrator yet. Create one here (the link works once):\n"
                        f"  {settings.public_url}/set-up?token={token}"
                    )
                return
            except (AlreadyExistsError, InvalidArgumentError) as error:
                runtime.telemetry.log.error("the administrator cannot be created", reason=str(error))
                return
            except (TaskManError, DatabaseError) as error:
                runtime.telemetry.log.info("the administrator has to wait", reason=str(error))
            await asyncio.sleep(pause)
            pause = min(pause * 2, _PAUSE[1])


async def _declare_queues(broker: RabbitBroker) -> None:
    """All queues of all services: an event that is published before its queue is there would miss it, and processes
    start in any order."""
    for definition in SERVICES:
        for queue, bindings in definition.hears.items():
            await broker.declare(queue, bindings)


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
    async with _process(GATEWAY, settings, stop) as process:
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
                Forwarder(channels, authenticator, request_timeout=settings.request_timeout_seconds),
                authenticator=authenticator,
                limiter=gateway.limiter,
            )
            await grpc.start(settings.host, settings.grpc_port)
        async with serving(gateway, listener, drain_seconds=settings.drain_seconds):
            watching = asyncio.create_task(edge.watch(started))
            await stop.wait()
            edge.draining = True
            watching.cancel()
            if grpc is not None:
                await grpc.serving(False)
            await asyncio.sleep(min(_NOTICE_SECONDS, settings.drain_seconds))
            if grpc is not None:
                await grpc.stop(settings.drain_seconds)


class _Edge:
    """How the gateway is: ready when every service has answered once, and those without which nothing can be answered
    do so now."""

    def __init__(self, process: _Process) -> None:
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
        return Health(parts | self._process.redis_state(), frozenset(needed))

    async def watch(self, started: Callable[[], None]) -> None:
        """Keeps the metrics, and says when all are there."""
        said = False
        while True:
            health = await self.health()
            self._process.telemetry.dependencies(health.parts)
            if not said and health.status != "unavailable":
                said = True
                started()
            await asyncio.sleep(_SAMPLE_SECONDS if said else 0.1)
