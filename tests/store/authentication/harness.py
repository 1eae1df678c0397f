"""The services that an account needs, each on a database of its own, wired as `app` wires them.

All parts are the real ones: broker, outbox, relays, consumers, pipelines, peers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from prometheus_client import CollectorRegistry

from taskman_sdk import codec, contract
from taskman_sdk.proto.taskman.authentication.v1.authentication_pb import (
    LoginRequest,
    RegisterRequest,
    RegisterResponse,
    TokenResponse,
    ValidateTokenRequest,
    ValidateTokenResponse,
)
from taskman_server.kit.broker.embedded import EmbeddedBroker
from taskman_server.kit.clock import ManualClock
from taskman_server.kit.db import Database
from taskman_server.kit.event_tables import OUTBOX
from taskman_server.kit.events import Event
from taskman_server.kit.guard import Guard
from taskman_server.kit.identity import Authenticator
from taskman_server.kit.ids import new_id
from taskman_server.kit.outbox import Consumer, Outbox, Relay, Subscription
from taskman_server.kit.paging import Pager
from taskman_server.kit.rpc import (
    CallOptions,
    Channels,
    LocalChannel,
    Origin,
    Pipeline,
    Principal,
    Runtime,
    ServiceDefinition,
    ServiceParts,
    service_principal,
)
from taskman_server.kit.telemetry import Telemetry
from taskman_server.services.authentication import SERVICE as AUTHENTICATION
from taskman_server.services.authentication.store import METADATA as AUTHENTICATION_TABLES
from taskman_server.services.authorization import SERVICE as AUTHORIZATION
from taskman_server.services.iam import SERVICE as IAM
from taskman_server.services.notifications import SERVICE as NOTIFICATIONS
from taskman_server.services.users import SERVICE as USERS
from taskman_server.services.users.store import METADATA as USER_TABLES
from taskman_server.settings import Settings
from tests.store.databases import Databases, databases_in
from tests.store.support import open_to

M = TypeVar("M", bound="codec.Message[Any]")
PASSWORD: Final = "a-stapled-otter-91"
DEFINITIONS: Final = (AUTHENTICATION, AUTHORIZATION, USERS, IAM, NOTIFICATIONS)
TABLES: Final = {"authentication": AUTHENTICATION_TABLES, "users": USER_TABLES}
PUBLIC_URL: Final = "http://taskman.test"


@dataclass
class Service:
    """One service at work."""

    definition: ServiceDefinition
    runtime: Runtime
    parts: ServiceParts
    pipeline: Pipeline
    relay: Relay
    consumers: list[Consumer]


@dataclass
class House:
    """The services, ready to be called."""

    clock: ManualClock
    broker: EmbeddedBroker
    channels: Channels
    services: Mapping[str, Service]
    heard: list[Event] = field(default_factory=list)

    async def call(
        self,
        operation: str,
        request: codec.Message[Any],
        answer: type[M],
        *,
        token: str = "",
        caller: Principal | None = None,
        ip: str = "203.0.113.7",
        **metadata: str,
    ) -> M:
        """Calls an RPC as a client with a token, or as a principal."""
        sent = {name.replace("_", "-"): value for name, value in metadata.items()}
        if token:
            sent["authorization"] = f"Bearer {token}"
        options = CallOptions(sent, caller=caller, origin=Origin(ip, "tests/1.0"))
        reply = await self.channels.unary(contract.method(operation), request, options)
        assert isinstance(reply, answer)
        return reply

    async def register(self, email: str, password: str = PASSWORD, name: str = "Ann Example") -> RegisterResponse:
        """Signs up."""
        request = RegisterRequest(email=email, password=password, display_name=name)
        return await self.call("AuthenticationService.Register", request, RegisterResponse)

    async def login(self, email: str, password: str = PASSWORD, ip: str = "203.0.113.7") -> TokenResponse:
        """Signs in."""
        request = LoginRequest(email=email, password=password)
        return await self.call("AuthenticationService.Login", request, TokenResponse, ip=ip)

    async def person(self, email: str) -> tuple[TokenResponse, Principal]:
        """Signs up and in."""
        await self.register(email)
        tokens = await self.login(email)
        return tokens, await self.validate(tokens.access_token)

    async def validate(self, token: str) -> Principal:
        """Whose token it is, as the other services ask."""
        answer = await self.call(
            "AuthenticationService.ValidateToken",
            ValidateTokenRequest(access_token=token),
            ValidateTokenResponse,
            caller=service_principal("gateway", ""),
        )
        assert answer.principal is not None
        found = answer.principal
        return Principal(found.id, "user", found.organization, found.session)

    def runtime(self, service: str) -> Runtime:
        """What a service runs in."""
        return self.services[service].runtime

    async def rows(self, service: str, table: str, **values: Any) -> list[Any]:
        """The rows of a service's table that have these values, in the order they were made."""
        columns = TABLES[service].tables[table].c
        statement = sa.select(*columns).where(*(columns[name] == value for name, value in values.items()))
        db = self.runtime(service).db
        made = "rowid" if db.dialect.name == "sqlite" else "xmin::text::bigint"
        return await db.fetch_all(statement.order_by(sa.literal_column(made)))

    async def settled(self) -> None:
        """Returns when every event so far has reached and left every consumer."""
        quiet = 0
        while quiet < 3:  # what was in a queue while the outboxes were looked at may be in the next outbox by now
            waiting = [await service.relay.pending() for service in self.services.values()]
            queues = await self.broker.stats()
            if any(waiting) or any(stats.ready or stats.unsettled for stats in queues.values()):
                quiet = 0
                await asyncio.sleep(0.002)
            else:
                quiet += 1

    async def events(self, *names: str) -> list[Event]:
        """What was heard of these names, in order, once all is settled."""
        await self.settled()
        return [event for event in self.heard if event.name in names]

    async def unpublished(self, service: str) -> list[Event]:
        """What stands in a service's outbox."""
        rows = await self.runtime(service).db.fetch_all(sa.select(OUTBOX.c.envelope).order_by(OUTBOX.c.sequence))
        return [Event.from_json(row.envelope) for row in rows]


@asynccontextmanager
async def open_house(
    where: Path | Databases, *, events: bool = True, clock: ManualClock | None = None, **settings: Any
) -> AsyncIterator[House]:
    """The services on databases, or on files in a folder; `events=False` leaves every event in its outbox."""
    databases = databases_in(where)
    folder = databases.folder
    chosen = Settings(
        **{
            "data": folder,
            "signup": "open",
            "password_hash": "fast",
            "sqlite_synchronous": "normal",
            "public_url": PUBLIC_URL,
            "issuer": PUBLIC_URL,
            **settings,
        }
    )
    # Ids tell the real time, and consumers refuse events that seem to be years old.
    clock = clock or ManualClock(datetime.now(UTC))
    registry = CollectorRegistry()
    channels = Channels({})
    async with AsyncExitStack() as stack:
        broker = await EmbeddedBroker.open(folder / ("broker.db" if events else f"broker-{new_id('test')}.db"))
        stack.push_async_callback(broker.close)
        services: dict[str, Service] = {}
        for definition in DEFINITIONS:
            # Not alone: some tests change rows behind a service's back.
            options = {"alone": False} if databases.kind == "sqlite" else {}
            db = await databases.open(definition, **options)
            stack.push_async_callback(db.close)
            service = _build(definition, db, chosen, broker, channels, clock, registry)
            services[definition.name] = service
            channels.add(definition.area, LocalChannel(service.pipeline))
        house = House(clock, broker, channels, services)
        for service in services.values():
            if service.parts.start is not None:
                await service.parts.start()
        if events:
            await _connect(house, stack)
        yield house


def _build(
    definition: ServiceDefinition,
    db: Database,
    settings: Settings,
    broker: EmbeddedBroker,
    channels: Channels,
    clock: ManualClock,
    registry: CollectorRegistry,
) -> Service:
    telemetry = Telemetry(definition.name, registry)
    relay = Relay(db, broker)
    runtime = Runtime(
        name=definition.name,
        settings=settings,
        db=db,
        outbox=Outbox(relay.wake),
        channels=channels,
        authenticator=Authenticator(channels, definition.name, clock),
        guard=Guard(channels, definition.name, telemetry),
        pager=Pager(b"a key for the pages of these tests"),
        clock=clock,
        telemetry=telemetry,
    )
    parts = definition.build(runtime)
    consumers = [Consumer(db, broker, subscription, clock=clock) for subscription in parts.subscriptions]
    pipeline = Pipeline(open_to("tests", definition.contract), parts.handlers, runtime)
    return Service(definition, runtime, parts, pipeline, relay, consumers)


async def _connect(house: House, stack: AsyncExitStack) -> None:
    async def hear(event: Event, _: Any) -> None:
        house.heard.append(event)

    users = house.runtime("users")
    listener = Consumer(users.db, house.broker, Subscription("tests.all", ["#"], hear), clock=house.clock)
    consumers = [each for service in house.services.values() for each in service.consumers]
    for consumer in (listener, *consumers):
        await consumer.start()
        stack.push_async_callback(consumer.stop)
    for service in house.services.values():
        service.relay.start()
        stack.push_async_callback(service.relay.stop)
