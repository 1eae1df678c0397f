"""The embedded shape: all eight services in this process, each on a SQLite file of its own (OPS-1)."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry

from taskman_sdk import contract
from taskman_server import data_folder
from taskman_server.app.units import SERVICES, Shared, Unit
from taskman_server.gateway.app import Gateway
from taskman_server.gateway.pages import pages
from taskman_server.kit.broker import Broker, BrokerError
from taskman_server.kit.broker.embedded import EmbeddedBroker
from taskman_server.kit.clock import Clock, SystemClock
from taskman_server.kit.db import DatabaseError
from taskman_server.kit.db.migrate import upgrade
from taskman_server.kit.db.sqlite import SqliteDatabase
from taskman_server.kit.forwarded import networks
from taskman_server.kit.guard import Guard
from taskman_server.kit.identity import Authenticator
from taskman_server.kit.operations import Health
from taskman_server.kit.paging import Pager
from taskman_server.kit.rpc import CallOptions, Channels, LocalChannel, Runtime
from taskman_server.kit.rpc.server import GrpcServer
from taskman_server.kit.telemetry import Telemetry
from taskman_server.services.authentication.first_start import ensure_administrator, issue_setup_token
from taskman_server.settings import NO_FILE, Settings, SettingsError, load

if TYPE_CHECKING:
    from taskman_sdk import AsyncTaskMan
    from taskman_sdk.transports.local import LocalTransport

__all__ = ["Application", "embedded", "open_application"]


@dataclass(slots=True)
class Application:
    """All eight services in this process.

    Attributes:
        settings: what it runs with.
        gateway: the ASGI application of the REST API.
        channels: to the seven services, in process.
        setup_token: makes the first administrator; None when there is one.
        grpc_ports: the port of each area's gRPC server, once `serve_grpc` was called.
    """

    settings: Settings
    gateway: Gateway
    channels: Channels
    broker: Broker
    registry: CollectorRegistry
    setup_token: str | None
    _services: list[Unit]
    grpc_ports: dict[str, int] = field(default_factory=dict)
    _grpc: list[GrpcServer] = field(default_factory=list)

    def client(self, token: str | None = None, **options: Any) -> AsyncTaskMan:
        """A client that calls in process, without network (SDK-2).

        Args:
            token: an access token; the client can sign in later.
            options: what else `AsyncTaskMan` takes.
        """
        from taskman_sdk import AsyncTaskMan

        return AsyncTaskMan(token=token, transport=self.transport(), **options)

    def transport(self) -> LocalTransport:
        """A transport to this application, for a client of either kind; call it in the application's event loop."""
        from taskman_sdk.transports.local import LocalTransport

        return LocalTransport(_ClientChannel(self.channels), loop=asyncio.get_running_loop())

    def runtime(self, service: str) -> Runtime:
        """What a service runs in, by its folder's name. For operators' tools and tests."""
        return next(each.runtime for each in self._services if each.definition.name == service)

    async def serve_grpc(self, host: str, port_base: int) -> None:
        """Opens a gRPC port for each service; `port_base` 0 takes free ones.

        Raises:
            OSError: a port is taken.
        """
        for service in self._services:
            definition = service.definition
            runtime = service.runtime
            server = GrpcServer(
                definition.contract,
                service.pipeline,
                authenticator=runtime.authenticator,
                limiter=self.gateway.limiter,
                proxies=networks(self.settings.trusted_proxies),
            )
            port = 0 if port_base == 0 else port_base + definition.port_offset
            self.grpc_ports[definition.area] = await server.start(host, port)
            self._grpc.append(server)

    async def stop_grpc(self, grace: float) -> None:
        """Ends the gRPC servers; calls under way get `grace` seconds."""
        servers, self._grpc = self._grpc, []
        await asyncio.gather(*(server.stop(grace) for server in servers))

    async def settled(self) -> None:
        """Returns when every event so far has reached and left every consumer. For tests and tools."""
        while True:
            waiting = [await service.relay.pending() for service in self._services]
            queues = await self.broker.stats()
            if not any(waiting) and not any(stats.ready or stats.unsettled for stats in queues.values()):
                return
            await asyncio.sleep(0.005)


class _ClientChannel:
    """The channel of a client outside the services: its metadata is all it can say of itself."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels

    async def unary(
        self, method: contract.Method, request: Any, *, metadata: Mapping[str, str], timeout: float | None
    ) -> Any:
        return await self._channels.unary(method, request, CallOptions(dict(metadata), timeout))

    def stream(
        self, method: contract.Method, request: Any, *, metadata: Mapping[str, str], timeout: float | None
    ) -> AsyncIterator[Any]:
        return self._channels.stream(method, request, CallOptions(dict(metadata), timeout))


@asynccontextmanager
async def open_application(settings: Settings, *, clock: Clock | None = None) -> AsyncIterator[Application]:
    """Starts all services in this process on one data folder; leaving the block stops them (OPS-1).

    Args:
        settings: with the port known (`Settings.with_port`).
        clock: the time; the machine's when None.

    Raises:
        DataFolderInUse: another process has the folder.
        DataFolderError: the folder cannot be used, or has lost a file.
        SettingsError: the settings are those of the cluster shape.
    """
    if settings.cluster:
        raise SettingsError(
            "TASKMAN_DATABASE_URL, TASKMAN_BROKER_URL belong to the cluster shape: start it with `taskman-server up "
            "--cluster`, or unset them to keep everything in files"
        )
    clock = clock or SystemClock()
    folder = data_folder.open_folder(settings.data)
    async with AsyncExitStack() as stack:
        stack.enter_context(data_folder.lock(folder))
        data_folder.check_whole(folder, [f"{definition.name}.db" for definition in SERVICES])
        for definition in SERVICES:
            await asyncio.to_thread(upgrade, folder / f"{definition.name}.db", definition.migrations)
        registry = CollectorRegistry()
        broker = await EmbeddedBroker.open(folder / data_folder.BROKER, clock=clock)
        stack.push_async_callback(broker.close)
        channels = Channels({})
        tracer = None
        if settings.otlp_endpoint:
            from taskman_server.kit.tracing import open_tracer  # the exporter costs 0.2 s, which few need

            tracer = stack.enter_context(open_tracer(settings.otlp_endpoint))
        telemetry = Telemetry("gateway", registry, tracer)
        shared = Shared(
            settings=settings,
            broker=broker,
            channels=channels,
            authenticator=Authenticator(channels, "gateway", clock, telemetry),
            guard=Guard(channels, "gateway", telemetry),
            pager=Pager(data_folder.secret(folder, data_folder.PAGING_KEY)),
            clock=clock,
        )
        services = []
        for definition in SERVICES:
            measured = Telemetry(definition.name, registry, tracer)
            db = SqliteDatabase(
                folder / f"{definition.name}.db",
                durability=settings.sqlite_synchronous,
                observe=partial(measured.query, system="sqlite"),
            )
            stack.push_async_callback(db.close)
            service = Unit.build(definition, db, shared, measured)
            services.append(service)
            channels.add(definition.area, LocalChannel(service.pipeline))
            if definition.name == "authentication":
                shared.authenticator.follow(db.changes)
            elif definition.name == "authorization":
                shared.guard.follow(db.changes)
        for service in services:
            await service.begin()
        # Queues before relays: an event that no queue is bound for would wait.
        for service in services:
            stack.push_async_callback(service.stop)
            await service.consume()
        for service in services:
            service.work()
        ready = _Readiness(services, broker)
        gateway = Gateway(
            channels,
            shared.authenticator,
            shared.guard,
            settings,
            clock,
            telemetry,
            pages(ready.check, registry, settings.public_url),
        )
        data_folder.mark(folder)
        setup_token = await _first_start(services[0].runtime, settings)
        application = Application(settings, gateway, channels, broker, registry, setup_token, services)
        stack.push_async_callback(application.stop_grpc, 5)
        yield application


async def _first_start(authentication: Runtime, settings: Settings) -> str | None:
    if settings.admin_email:
        password = settings.admin_password.get_secret_value()
        await ensure_administrator(authentication, settings.admin_email, password, "Administrator")
        return None
    return await issue_setup_token(authentication)


class _Readiness:
    """Whether requests will be answered: every database and the broker work."""

    def __init__(self, services: list[Unit], broker: Broker) -> None:
        self._services = services
        self._broker = broker
        self._known = (float("-inf"), Health())

    async def check(self) -> Health:
        """What each part says of itself; looked up once a second at most, as anybody may ask."""
        now = asyncio.get_running_loop().time()
        if now - self._known[0] >= 1:
            self._known = (now, await self._look())
        return self._known[1]

    async def _look(self) -> Health:
        found: dict[str, str] = {}
        for service in self._services:
            try:
                await service.relay.pending()
                found[service.definition.name] = "ok"
            except DatabaseError as error:
                found[service.definition.name] = f"its database does not answer: {error}"
        try:
            await self._broker.stats()
            found["broker"] = "ok"
        except BrokerError as error:
            found["broker"] = str(error)
        return Health(found)


@asynccontextmanager
async def embedded(
    data: Path | str | None = None, *, clock: Clock | None = None, **settings: Any
) -> AsyncIterator[Application]:
    """The whole server inside a Python program, without network (OPS-1, SDK-8).

        async with taskman_server.embedded() as app:
            client = app.client()

    Args:
        data: the data folder; a temporary one, removed at the end, when None.
        clock: the time; the machine's when None.
        settings: any settings of `taskman_server.settings.Settings`. The environment is not read.

    Raises:
        SettingsError: a setting is wrong.
        DataFolderInUse: another process has the folder.
    """
    with tempfile.TemporaryDirectory(prefix="taskman-") as temporary:
        flags = {"data": Path(data) if data is not None else Path(temporary), **settings}
        async with open_application(
            load(flags, environ={}, config=NO_FILE).with_port(settings.get("port", 8080)), clock=clock
        ) as app:
            yield app
