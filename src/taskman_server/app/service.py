"""One service as a process of its own, on PostgreSQL, RabbitMQ and Redis (OPS-2)."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import click

from taskman_sdk.errors import AlreadyExistsError, InvalidArgumentError, TaskManError
from taskman_server import data_folder
from taskman_server.app.process import NOTICE_SECONDS, PAUSE, SAMPLE_SECONDS, Process, Stopped, process_of
from taskman_server.app.serving import serving
from taskman_server.app.units import SERVICES, Shared, Unit
from taskman_server.kit.broker import BrokerError
from taskman_server.kit.broker.rabbitmq import RabbitBroker
from taskman_server.kit.db import DatabaseError
from taskman_server.kit.db.migrate import upgrade
from taskman_server.kit.db.postgres import PostgresDatabase
from taskman_server.kit.guard import Guard
from taskman_server.kit.identity import Authenticator
from taskman_server.kit.operations import Health, operations
from taskman_server.kit.paging import Pager
from taskman_server.kit.redis import RedisWriteMarks
from taskman_server.kit.rpc import LocalChannel, ServiceDefinition
from taskman_server.kit.rpc.server import GrpcServer
from taskman_server.services.authentication.first_start import ensure_administrator, issue_setup_token
from taskman_server.settings import Settings, SettingsError

if TYPE_CHECKING:
    import socket


__all__ = ["run_service"]


async def run_service(settings: Settings, name: str, stop: asyncio.Event, ops: socket.socket | None) -> None:
    """Runs one service until `stop` is set; then calls under way end, and nothing is left half done.

    Args:
        settings: with the port of the gateway known (`Settings.with_port`).
        name: the service's folder, for example `tasks`.
        stop: set when the process is to end.
        ops: where health and metrics are answered; None for nowhere.

    Raises:
        SettingsError: no database or broker is named, or no port.
        MigrationError: the database's schema is not one that this release can work on.
        TlsError: the process's certificate cannot be read.
        DataFolderError: there is no secret key, and no folder to keep one in.
        OSError: the gRPC port is taken.
    """
    definition = next(each for each in SERVICES if each.name == name)
    database_url, broker_url = settings.database_of(name), settings.broker()
    if settings.grpc_port_base < 1:
        raise SettingsError("TASKMAN_GRPC_PORT_BASE must be a port, for example 50051: the others look for it there")
    async with AsyncExitStack() as outer:
        process = await outer.enter_async_context(process_of(name, settings, stop))
        service = _Service(process, definition)
        if ops is not None:
            answers = operations(service.health, process.registry)
            await outer.enter_async_context(serving(answers, ops, drain_seconds=1))
        try:
            async with AsyncExitStack() as stack:
                await service.start(stack, database_url, broker_url)
                await stop.wait()
                await service.drain()
        except Stopped:
            return


class _Service:
    """One service as a process."""

    def __init__(self, process: Process, definition: ServiceDefinition) -> None:
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
        page_key = _page_key(settings)
        await process.obtain("database", lambda: asyncio.to_thread(upgrade, database_url, definition.migrations))
        db = await process.obtain("database", lambda: self._open_database(database_url))
        stack.push_async_callback(db.close)
        telemetry = process.telemetry
        telemetry.pool(lambda: db.stats().size, lambda: db.stats().idle, settings.database_pool_size)
        broker = await process.obtain("broker", lambda: self._open_broker(broker_url))
        self._broker = broker
        stack.push_async_callback(broker.close)
        process.connect(but=definition.name)
        shared = Shared(
            settings=settings,
            channels=process.channels,
            authenticator=Authenticator(process.channels, definition.name, process.clock, telemetry, process.redis),
            guard=Guard(process.channels, definition.name, telemetry, process.redis),
            pager=Pager(page_key),
            clock=process.clock,
        )
        unit = self._unit = Unit.build(definition, db, broker, shared, telemetry, process.redis)
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
        await asyncio.sleep(min(NOTICE_SECONDS, self._process.settings.drain_seconds))
        await self.server.stop(self._process.settings.drain_seconds)

    async def _open_database(self, url: str) -> PostgresDatabase:
        process = self._process
        if process.settings.database_replica_url and process.redis is None:
            process.telemetry.log.warning("all reads go to the primary: a replica takes TASKMAN_REDIS_URL too")
        return await PostgresDatabase.open(
            url,
            name=process.name,
            pool_size=process.settings.database_pool_size,
            statement_timeout=process.settings.database_statement_timeout_seconds,
            replica_url=process.settings.replica_of(process.name),
            marks=RedisWriteMarks(process.redis) if process.redis is not None else None,
            observe=process.telemetry.query,
        )

    async def _open_broker(self, url: str) -> RabbitBroker:
        process = self._process
        return await RabbitBroker.open(url, name=f"taskman-{process.name}", observe=process.telemetry.messages)

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
        return found | self._process.states()

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
            await asyncio.sleep(SAMPLE_SECONDS)

    async def _first_start(self) -> None:
        """Makes the first administrator, or says how to, once the services that this takes answer."""
        assert self._unit is not None
        runtime, settings = self._unit.runtime, self._process.settings
        pause = PAUSE[0]
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
            pause = min(pause * 2, PAUSE[1])


async def _declare_queues(broker: RabbitBroker) -> None:
    """All queues of all services: an event that is published before its queue is there would miss it, and processes
    start in any order."""
    for definition in SERVICES:
        for queue, bindings in definition.hears.items():
            await broker.declare(queue, bindings)


def _page_key(settings: Settings) -> bytes:
    secret = settings.secret_key.get_secret_value()
    if secret:
        return hmac.new(secret.encode(), b"taskman page tokens", hashlib.sha256).digest()
    return data_folder.secret(data_folder.open_folder(settings.data), data_folder.PAGING_KEY)
