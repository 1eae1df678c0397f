"""What a service is made of, and what it runs in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from taskman_sdk import contract
from taskman_server.kit.rpc.call import Context, Principal
from taskman_server.kit.rpc.channel import Channels, Origin

if TYPE_CHECKING:
    from taskman_server.kit.clock import Clock
    from taskman_server.kit.db import Database
    from taskman_server.kit.guard import Guard
    from taskman_server.kit.identity import Authenticator
    from taskman_server.kit.outbox import Outbox, Subscription
    from taskman_server.kit.paging import Pager
    from taskman_server.kit.redis import Redis
    from taskman_server.kit.telemetry import Telemetry
    from taskman_server.settings import Settings

__all__ = ["Runtime", "ServiceDefinition", "ServiceParts", "Worker"]


@dataclass(slots=True)
class Runtime:
    """Everything a service is given. Made by `app`, nowhere else.

    Attributes:
        name: the service's folder, for example `tasks`.
        settings: the whole settings tree.
        db: the service's own database.
        outbox: the table that its events leave by.
        channels: to its peers.
        authenticator: tokens to principals.
        guard: decisions.
        pager: page tokens.
        clock: the time.
        telemetry: spans, metrics, logs.
        beside: by a service's folder, what counts the changes of its database (`Database.changes`), for those services
            whose database is in this process.
        redis: what the replicas of the service share; None in the embedded shape, or without a Redis.
        peer_timeout: seconds that a call to a peer may take.
        request_timeout: seconds that a call may take when its caller names no deadline.
    """

    name: str
    settings: Settings
    db: Database
    outbox: Outbox
    channels: Channels
    authenticator: Authenticator
    guard: Guard
    pager: Pager
    clock: Clock
    telemetry: Telemetry
    beside: Mapping[str, Callable[[], int]] = field(default_factory=dict)
    redis: Redis | None = None
    peer_timeout: float = 5.0
    request_timeout: float = 30.0

    def context(
        self, organization: str, *, actor: str = "", request_id: str = "", traceparent: str = "", ip_address: str = ""
    ) -> Context:
        """This service at work of its own, for example in a consumer, on behalf of `actor` where there is one."""
        principal = Principal(f"service:{self.name}", "service", organization, actor=actor)
        return Context(self, principal, request_id, Origin(ip_address), traceparent)


class Worker(Protocol):
    """Work that a service does beside its calls, for example sending what is due."""

    async def run(self) -> None:
        """Works until cancelled; leaves nothing half done then."""
        ...


@dataclass(slots=True)
class ServiceParts:
    """What a service's `build` makes.

    Attributes:
        handlers: an object with a function for each RPC.
        subscriptions: the events it hears.
        workers: what else it does.
        wakes: each is called when another process has written to the service's database.
        start: awaited once before the first call, for example to make a signing key.
    """

    handlers: object
    subscriptions: Sequence[Subscription] = ()
    workers: Sequence[Worker] = ()
    wakes: Sequence[Callable[[], None]] = ()
    start: Callable[[], Awaitable[None]] | None = None


@dataclass(frozen=True, slots=True)
class ServiceDefinition:
    """A service, before it runs.

    Attributes:
        name: its folder below `services/`, for example `tasks`.
        area: its area of the contract, for example `task`.
        build: makes its parts for a runtime.
        port_offset: its gRPC port above the port base.
        hears: its queues, and the patterns of events that each is bound to. Known before the service runs, so that
            whichever process comes first can declare them all: an event that is published before would miss them.
    """

    name: str
    area: str
    build: Callable[[Runtime], ServiceParts]
    port_offset: int
    hears: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def contract(self) -> contract.Service:
        """Its RPCs."""
        return contract.service(self.area)

    @property
    def migrations(self) -> Path:
        """The folder of its Alembic migrations."""
        return Path(str(files("taskman_server.services"))) / self.name / "migrations"
