"""The embedded shape: all eight services in this process, each on a SQLite file of its own (OPS-1)."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry

from taskman_sdk import contract
from taskman_server import data_folder
from taskman_server.app.inside import open_inside
from taskman_server.app.units import SERVICES, Unit
from taskman_server.app.workers import Workers
from taskman_server.gateway.app import Gateway
from taskman_server.kit.broker import Broker, BrokerError
from taskman_server.kit.broker.embedded import EmbeddedBroker
from taskman_server.kit.clock import Clock, SystemClock
from taskman_server.kit.db import DatabaseError
from taskman_server.kit.db.migrate import upgrade
from taskman_server.kit.forwarded import networks
from taskman_server.kit.operations import Health
from taskman_server.kit.rpc import CallOptions, Channels, Runtime
from taskman_server.kit.rpc.server import GrpcServer
from taskman_server.services.authentication.first_start import ensure_administrator, issue_setup_token
from taskman_server.settings import NO_FILE, Settings, SettingsError, load

if TYPE_CHECKING:
    from taskman_sdk import AsyncTaskMan
    from taskman_sdk.transports.local import LocalTransport

__all__ = ["Application", "embedded", "open_application"]

_PATIENCE: Final = 1.0


@dataclass(slots=True)
class Application:
    """All eight services in this process.

    Attributes:
        settings: what it runs with.
        gateway: the ASGI application of the REST API.
        channels: to the seven services, in process.
        setup_token: makes the first administrator; None when there is one.
        workers: the other processes of the server; none runs before `Workers.begin`.
        grpc_ports: the port of each area's gRPC server, once `serve_grpc` was called.
    """

    settings: Settings
    gateway: Gateway
    channels: Channels
    broker: Broker
    registry: CollectorRegistry
    setup_token: str | None
    workers: Workers
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
            for service in self._services:
                service.relay.hurry()
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
        lock = stack.enter_context(await _lock(folder))
        data_folder.check_whole(folder, [f"{definition.name}.db" for definition in SERVICES])
        for definition in SERVICES:
            await asyncio.to_thread(upgrade, folder / f"{definition.name}.db", definition.migrations)
        broker = await EmbeddedBroker.open(folder / data_folder.BROKER, clock=clock)
        stack.push_async_callback(broker.close)
        inside = await stack.enter_async_context(open_inside(folder, settings, clock))
        services = [
            Unit.build(each, inside.databases[each.name], broker, inside.shared, inside.measured[each.name])
            for each in SERVICES
        ]
        inside.connect(services)
        for service in services:
            await service.begin()
        # Queues before relays: an event that no queue is bound for would wait.
        for service in services:
            stack.push_async_callback(service.stop)
            await service.consume()
        for service in services:
            service.work()
        workers = Workers(settings, lock.fileno(), inside.registry, {each.definition.name: each for each in services})
        ready = _Readiness(services, broker, workers)
        gateway = inside.gateway(ready.check, workers.metrics if settings.workers > 1 else None)
        workers.connect(ready.check, gateway.limiter)
        data_folder.mark(folder)
        setup_token = await _first_start(services[0].runtime, settings)
        application = Application(
            settings, gateway, inside.shared.channels, broker, inside.registry, setup_token, workers, services
        )
        stack.push_async_callback(application.stop_grpc, 5)
        yield application


async def _lock(folder: Path) -> IO[str]:
    """The folder's lock. Workers of a server that was killed hold it until they have noticed, some milliseconds."""
    deadline = asyncio.get_running_loop().time() + _PATIENCE
    while True:
        try:
            return data_folder.lock(folder)
        except data_folder.DataFolderInUse:
            if asyncio.get_running_loop().time() > deadline:
                raise
        await asyncio.sleep(0.02)


async def _first_start(authentication: Runtime, settings: Settings) -> str | None:
    if settings.admin_email:
        password = settings.admin_password.get_secret_value()
        await ensure_administrator(authentication, settings.admin_email, password, "Administrator")
        return None
    return await issue_setup_token(authentication)


class _Readiness:
    """Whether requests will be answered: every database and the broker work, and all workers have come up."""

    def __init__(self, services: list[Unit], broker: Broker, workers: Workers) -> None:
        self._services = services
        self._broker = broker
        self._workers = workers
        self._known: tuple[float, dict[str, str]] = (float("-inf"), {})

    async def check(self) -> Health:
        """What each part says of itself; databases are asked once a second at most, as anybody may ask."""
        now = asyncio.get_running_loop().time()
        if now - self._known[0] >= 1:
            self._known = (now, await self._look())
        found = self._known[1]
        return Health({**found, **self._workers.states()}, frozenset(found) | self._workers.needed())

    async def _look(self) -> dict[str, str]:
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
        return found


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
