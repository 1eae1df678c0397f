"""Users, IAM and Authorization as they are, each on a database of its own, connected in process and by the broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry

from taskman_sdk import codec, contract
from taskman_sdk.errors import UnavailableError
from taskman_sdk.proto.taskman.authorization.v1.authorization_pb import (
    CheckRequest,
    CheckResponse,
    PlanResourcesRequest,
    PlanResourcesResponse,
)
from taskman_sdk.proto.taskman.iam.v1.iam_pb import (
    Assignment,
    CreateAssignmentRequest,
    CreatePolicyRequest,
    CreateRoleRequest,
    Effect,
    Policy,
    Role,
)
from taskman_sdk.proto.taskman.user.v1.user_pb import CreateUserRequest, User
from taskman_server.kit.broker.embedded import EmbeddedBroker
from taskman_server.kit.clock import ManualClock
from taskman_server.kit.guard import Guard
from taskman_server.kit.identity import Authenticator
from taskman_server.kit.outbox import Consumer, Event, Outbox, Relay
from taskman_server.kit.paging import Pager
from taskman_server.kit.rpc import (
    CallOptions,
    Channels,
    LocalChannel,
    Pipeline,
    Principal,
    Runtime,
    ServiceDefinition,
    service_principal,
)
from taskman_server.kit.telemetry import Telemetry
from taskman_server.services import authorization, iam, users
from taskman_server.settings import Settings
from tests.store.databases import Databases, databases_in
from tests.store.support import open_to

M = TypeVar("M", bound="codec.Message[Any]")
ORGANIZATION = "org_one"


class Switch:
    """A channel that can be cut, as a network can."""

    def __init__(self, channel: LocalChannel) -> None:
        self._channel = channel
        self.cut = False
        self.calls: dict[str, int] = {}

    async def unary(
        self, method: contract.Method, request: codec.Message[Any], options: CallOptions
    ) -> codec.Message[Any]:
        """Calls, unless cut."""
        self.calls[method.operation_id] = self.calls.get(method.operation_id, 0) + 1
        if self.cut:
            raise UnavailableError("the line is cut", reason="LINE_CUT")
        return await self._channel.unary(method, request, options)

    def stream(
        self, method: contract.Method, request: codec.Message[Any], options: CallOptions
    ) -> AsyncIterator[codec.Message[Any]]:
        """Nothing streams here."""
        raise AssertionError(method.operation_id)


@dataclass
class House:
    """The three services, ready to be called."""

    clock: ManualClock
    broker: EmbeddedBroker
    channels: Channels
    lines: dict[str, Switch]
    runtimes: dict[str, Runtime]
    relays: dict[str, Relay]
    consumers: dict[str, Consumer]
    events: list[Event] = field(default_factory=list)
    _emails: int = 0

    async def call(self, who: str, operation: str, request: codec.Message[Any], answer: type[M], **meta: str) -> M:
        """Calls an RPC as a user of the organization; as a service where `who` begins with `service:`."""
        organization = meta.pop("organization", ORGANIZATION)
        name, _, service = who.partition(":")
        caller = service_principal(service, organization) if service else Principal(name, "user", organization)
        metadata = {key.replace("_", "-"): value for key, value in meta.items()}
        reply = await self.channels.unary(
            contract.method(operation), request, CallOptions(metadata=metadata, caller=caller)
        )
        assert isinstance(reply, answer)
        return reply

    async def user(self, *roles: str, organization: str = ORGANIZATION) -> str:
        """A new user, who is a member by sign-up, with further roles."""
        self._emails += 1
        request = CreateUserRequest(user=User(email=f"u{self._emails}@example.org", display_name="U"))
        made = await self.call("service:test", "UserService.CreateUser", request, User, organization=organization)
        for role in roles:
            await self.assign(made.id, role, organization=organization)
        await self.settle()
        return made.id

    async def assign(
        self, principal: str, role: str, *, by: str = "service:test", organization: str = ORGANIZATION, **more: Any
    ) -> Assignment:
        """Gives a role."""
        request = CreateAssignmentRequest(assignment=Assignment(principal=principal, role=role, **more))
        return await self.call(by, "IamAdminService.CreateAssignment", request, Assignment, organization=organization)

    async def role(self, name: str, *permissions: str, by: str = "service:test") -> Role:
        """A new role."""
        request = CreateRoleRequest(role=Role(name=name, permissions=list(permissions)))
        return await self.call(by, "IamAdminService.CreateRole", request, Role)

    async def policy(
        self,
        name: str,
        permissions: Sequence[str],
        condition: str = "",
        *,
        roles: Sequence[str] = (),
        deny: bool = False,
        by: str = "service:test",
    ) -> Policy:
        """A new policy."""
        policy = Policy(
            name=name,
            effect=Effect.DENY if deny else Effect.ALLOW,
            roles=list(roles),
            permissions=list(permissions),
            condition=condition,
        )
        return await self.call(by, "IamAdminService.CreatePolicy", CreatePolicyRequest(policy=policy), Policy)

    async def plan(self, who: str, permission: str, principal: str = "") -> PlanResourcesResponse:
        """What somebody's rights come to."""
        request = PlanResourcesRequest(principal=principal, permission=permission)
        return await self.call(who, "AuthorizationService.PlanResources", request, PlanResourcesResponse)

    async def check(self, who: str, permission: str, principal: str = "", **resource: Any) -> CheckResponse:
        """Whether somebody may do something to a resource."""
        request = CheckRequest(
            principal=principal, permission=permission, resource=codec.from_value(codec.Struct, resource)
        )
        return await self.call(who, "AuthorizationService.Check", request, CheckResponse)

    async def settle(self) -> None:
        """Returns when every event has had its effect."""
        queues = ("iam.user", "authorization.iam")

        async def quiet() -> bool:
            waiting = [await relay.pending() for relay in self.relays.values()]
            stats = await self.broker.stats()
            return not any(waiting) and not any(stats[q].ready or stats[q].unsettled for q in queues)

        async def still() -> bool:
            # What was in a queue while the outboxes were looked at may be in the next outbox by now.
            return all([await quiet() for _ in range(3)])

        await until(still)

    def named(self, name: str) -> list[Event]:
        """The events of a name that were published, in order."""
        return [event for event in self.events if event.name == name]


async def until(condition: Callable[[], Any], seconds: float = 20) -> None:
    """Waits for a condition, which may be awaitable."""
    async with asyncio.timeout(seconds):
        while True:
            value = condition()
            if await value if asyncio.iscoroutine(value) else value:
                return
            await asyncio.sleep(0.002)


@asynccontextmanager
async def open_house(where: Path | Databases, *, beside: House | None = None) -> AsyncIterator[House]:
    """The services on databases, or on files in a folder.

    With `beside`, another process of each service on the databases of that house: it answers calls, and leaves what
    else there is to do to the first.
    """
    databases = databases_in(where)
    folder = databases.folder
    # Ids carry the machine's time, and the inbox looks at it.
    clock = beside.clock if beside else ManualClock(datetime.now(UTC))
    async with AsyncExitStack() as stack:
        if beside:
            broker = beside.broker
        else:
            broker = await EmbeddedBroker.open(folder / "broker.db", retry_pause=0.01)
            stack.push_async_callback(broker.close)
            await broker.declare("test.everything", ["#"])  # as the audit's queue does: no event is without a way
        channels = Channels({})
        house = House(clock, broker, channels, {}, {}, {}, {})
        stack.callback(broker.listen("#", house.events.append))
        for module in (users, iam, authorization):
            await _open_service(stack, house, databases, module.SERVICE)
        if beside:
            yield house
            return
        for consumer in house.consumers.values():
            await consumer.start()
            stack.push_async_callback(consumer.stop)
        for relay in house.relays.values():
            relay.start()
            stack.push_async_callback(relay.stop)
        yield house


async def _open_service(stack: AsyncExitStack, house: House, databases: Databases, service: ServiceDefinition) -> None:
    db = await databases.open(service)
    stack.push_async_callback(db.close)
    relay = Relay(db, house.broker)
    telemetry = Telemetry(service.name, CollectorRegistry())
    runtime = Runtime(
        name=service.name,
        settings=Settings(data=databases.folder),
        db=db,
        outbox=Outbox(relay.wake),
        channels=house.channels,
        authenticator=Authenticator(house.channels, service.name, house.clock),
        guard=Guard(house.channels, service.name, telemetry),
        pager=Pager(b"sixteen bytes or more"),
        clock=house.clock,
        telemetry=telemetry,
    )
    parts = service.build(runtime)
    line = Switch(LocalChannel(Pipeline(open_to("test", service.contract), parts.handlers, runtime)))
    house.channels.add(service.area, line)
    house.lines[service.name] = line
    house.runtimes[service.name] = runtime
    house.relays[service.name] = relay
    for subscription in parts.subscriptions:
        house.consumers[subscription.queue] = Consumer(db, house.broker, subscription, clock=house.clock)
    for worker in parts.workers:
        task = asyncio.create_task(worker.run())
        stack.push_async_callback(_cancel, task)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
