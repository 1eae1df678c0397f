"""One service on a database file of its own, with broker, relay, consumers and workers as in the application.

Around it stand the answers of its peers: what a user's rights come to, and who the users are.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from prometheus_client import CollectorRegistry

from taskman_sdk import codec, contract
from taskman_sdk.errors import UnavailableError
from taskman_sdk.proto.taskman.authorization.v1.authorization_pb import (
    PlanKind,
    PlanResourcesRequest,
    PlanResourcesResponse,
    ReportDenialRequest,
    ReportDenialResponse,
)
from taskman_sdk.proto.taskman.user.v1.user_pb import BatchGetUsersRequest, BatchGetUsersResponse, User
from taskman_server.kit.broker import Message
from taskman_server.kit.broker.embedded import EmbeddedBroker
from taskman_server.kit.clock import ManualClock
from taskman_server.kit.db import Database
from taskman_server.kit.event_tables import OUTBOX
from taskman_server.kit.events import Event
from taskman_server.kit.guard import Guard
from taskman_server.kit.identity import Authenticator
from taskman_server.kit.ids import new_id
from taskman_server.kit.outbox import Consumer, Outbox, Relay
from taskman_server.kit.paging import Pager
from taskman_server.kit.rpc import CallOptions, Channels, Pipeline, Principal, Runtime, ServiceDefinition, ServiceParts
from taskman_server.kit.telemetry import Telemetry
from taskman_server.settings import Settings
from tests.store.databases import Databases, SqliteDatabases
from tests.store.support import until

M = TypeVar("M", bound="codec.Message[Any]")
ORGANIZATION = "org_one"


@dataclass
class Peers:
    """What the Users and the Authorization service answer.

    Attributes:
        users: by id.
        policies: the condition of a permission; what has none is allowed.
        denials: the refused attempts that were reported.
        down: the users service does not answer.
    """

    users: dict[str, User] = field(default_factory=dict)
    policies: dict[str, str] = field(default_factory=dict)
    denials: list[ReportDenialRequest] = field(default_factory=list)
    down: bool = False

    async def unary(
        self, method: contract.Method, request: codec.Message[Any], options: CallOptions
    ) -> codec.Message[Any]:
        """Answers an RPC."""
        if isinstance(request, BatchGetUsersRequest):
            if self.down:
                raise UnavailableError("not now", reason="SERVICE_DOWN")
            return BatchGetUsersResponse(users=[self.users[u] for u in request.users if u in self.users])
        if isinstance(request, ReportDenialRequest):
            self.denials.append(request)
            return ReportDenialResponse()
        assert isinstance(request, PlanResourcesRequest), method.operation_id
        condition = self.policies.get(request.permission, "true")
        kind = {"true": PlanKind.ALWAYS_ALLOWED, "false": PlanKind.ALWAYS_DENIED}.get(condition, PlanKind.CONDITIONAL)
        return PlanResourcesResponse(kind=kind, condition=condition if kind is PlanKind.CONDITIONAL else "")

    def stream(
        self, method: contract.Method, request: codec.Message[Any], options: CallOptions
    ) -> AsyncIterator[codec.Message[Any]]:
        """No peer streams."""
        raise AssertionError(method.operation_id)


@dataclass
class House:
    """A service at work."""

    definition: ServiceDefinition
    peers: Peers
    clock: ManualClock
    db: Database
    broker: EmbeddedBroker
    runtime: Runtime
    parts: ServiceParts
    pipeline: Pipeline

    async def call(
        self, operation: str, request: codec.Message[Any], answer: type[M], *, caller: Principal | None = None
    ) -> M:
        """Calls an RPC, as a user of the organization unless said otherwise."""
        method = self.definition.contract.methods[operation]
        options = CallOptions(caller=caller or self.user())
        reply = await self.pipeline.unary(method, request, options)
        assert isinstance(reply, answer)
        return reply

    def user(self, name: str = "user_admin", organization: str = ORGANIZATION) -> Principal:
        """A user who calls."""
        return Principal(name, "user", organization)

    def event(self, name: str, payload: codec.Message[Any] | dict[str, Any], **values: Any) -> Event:
        """An event of another service."""
        data = payload if isinstance(payload, dict) else codec.to_value(payload, implicit=False)
        kind = contract.event(name)
        given = {"organization": ORGANIZATION, "actor": "user_somebody", "subject": "", "result": "success"} | values
        return Event(
            id=given.pop("id", None) or new_id("event"),
            source=given.pop("source", "/taskman/tasks"),
            type=kind.cloud_type,
            time=given.pop("time", None) or self.clock.now(),
            data=data,
            **given,
        )

    async def publish(self, *events: Event) -> None:
        """Publishes events and returns when every consumer is done with them."""
        await self.broker.publish([Message.of(event) for event in events])
        await self.heard()

    async def heard(self) -> None:
        """Returns when nothing waits in the outbox or in a queue."""

        async def quiet() -> bool:
            row = await self.db.fetch_one(sa.select(sa.func.count().label("n")).select_from(OUTBOX))
            assert row is not None
            stats = await self.broker.stats()
            return not row.n and not any(each.ready or each.unsettled for each in stats.values())

        async def still() -> bool:
            # What was in a queue while the outbox was looked at may be in the outbox by now.
            return all([await quiet() for _ in range(3)])

        await until(still)

    async def rows(self, sql: str) -> list[Any]:
        """Rows of a query of the test's own."""
        return [tuple(row) for row in await self.db.fetch_all(sa.text(sql))]

    async def tamper(self, sql: str) -> None:
        """Changes the database as somebody with the file in hand would."""
        await self.db.execute(sa.text(sql))


@asynccontextmanager
async def open_house(
    definition: ServiceDefinition,
    where: Path | Databases,
    *,
    peers: Peers | None = None,
    clock: ManualClock | None = None,
    build: Callable[[Runtime], ServiceParts] | None = None,
    run: bool = True,
    broker_file: str = "broker.db",
    **settings: Any,
) -> AsyncIterator[House]:
    """The service on databases, or on files in a folder; with `run`, its relay, consumers and workers are at work.

    A second one on the same databases, with another broker, is another process of the service.
    """
    databases = SqliteDatabases(where, "service") if isinstance(where, Path) else where
    folder = databases.folder
    db = await databases.open(definition)
    # Ids, and with them the consumers' inbox, go by the machine's time.
    peers, clock = peers or Peers(), clock or ManualClock(datetime.now(UTC))
    broker = await EmbeddedBroker.open(folder / broker_file, clock=clock, retry_pause=0.01)
    relay = Relay(db, broker)
    channels = Channels({"user": peers, "authorization": peers})
    telemetry = Telemetry(definition.name, CollectorRegistry())
    runtime = Runtime(
        name=definition.name,
        settings=Settings(data=folder, **{"public_url": "https://taskman.example"} | settings),
        db=db,
        outbox=Outbox(relay.wake),
        channels=channels,
        authenticator=Authenticator(channels, definition.name, clock),
        guard=Guard(channels, definition.name, telemetry),
        pager=Pager(b"sixteen bytes or more"),
        clock=clock,
        telemetry=telemetry,
    )
    parts = (build or definition.build)(runtime)
    consumers = [Consumer(db, broker, each, clock=clock) for each in parts.subscriptions]
    workers: list[asyncio.Task[None]] = []
    try:
        if run:
            for consumer in consumers:
                await consumer.start()
            relay.start()
            workers = [asyncio.create_task(worker.run()) for worker in parts.workers]
        yield House(
            definition, peers, clock, db, broker, runtime, parts, Pipeline(definition.contract, parts.handlers, runtime)
        )
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        await relay.stop()
        for consumer in consumers:
            await consumer.stop()
        await db.close()
        await broker.close()
