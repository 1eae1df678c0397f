"""One service with what makes it go: pipeline, relay, consumers, workers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast

from taskman_server.kit.outbox import Consumer, Outbox, Relay
from taskman_server.kit.rpc import Channels, Pipeline, Runtime, ServiceDefinition, ServiceParts, Worker
from taskman_server.kit.rpc.idempotency import IdempotencyPruner
from taskman_server.kit.tracing_events import TracedBroker, traced
from taskman_server.services.audit import SERVICE as AUDIT
from taskman_server.services.authentication import SERVICE as AUTHENTICATION
from taskman_server.services.authorization import SERVICE as AUTHORIZATION
from taskman_server.services.iam import SERVICE as IAM
from taskman_server.services.notifications import SERVICE as NOTIFICATIONS
from taskman_server.services.tasks import SERVICE as TASKS
from taskman_server.services.users import SERVICE as USERS

if TYPE_CHECKING:
    from taskman_server.kit.broker import Broker
    from taskman_server.kit.clock import Clock
    from taskman_server.kit.db import Database
    from taskman_server.kit.guard import Guard
    from taskman_server.kit.identity import Authenticator
    from taskman_server.kit.paging import Pager
    from taskman_server.kit.redis import Redis
    from taskman_server.kit.telemetry import Telemetry
    from taskman_server.settings import Settings

__all__ = ["SERVICES", "Desk", "Shared", "Unit", "keep_running"]

SERVICES: Final = (AUTHENTICATION, AUTHORIZATION, USERS, IAM, TASKS, AUDIT, NOTIFICATIONS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What the services of one process have in common. `beside`: see `Runtime`."""

    settings: Settings
    channels: Channels
    authenticator: Authenticator
    guard: Guard
    pager: Pager
    clock: Clock
    beside: dict[str, Callable[[], int]] = field(default_factory=dict)


@dataclass(slots=True)
class Desk:
    """A service on its database, as far as it answers calls."""

    definition: ServiceDefinition
    runtime: Runtime
    parts: ServiceParts
    pipeline: Pipeline

    @classmethod
    def open(
        cls, definition: ServiceDefinition, db: Database, shared: Shared, telemetry: Telemetry,
        redis: Redis | None = None, wake: Callable[[], None] = lambda: None,
    ) -> Desk:  # fmt: skip
        """Puts it together; `wake` is called after each commit that holds an event."""
        runtime = Runtime(
            name=definition.name,
            settings=shared.settings,
            db=db,
            outbox=Outbox(wake),
            channels=shared.channels,
            authenticator=shared.authenticator,
            guard=shared.guard,
            pager=shared.pager,
            clock=shared.clock,
            telemetry=telemetry,
            beside=shared.beside,
            redis=redis,
            request_timeout=shared.settings.request_timeout_seconds,
        )
        parts = definition.build(runtime)
        return cls(definition, runtime, parts, Pipeline(definition.contract, parts.handlers, runtime))

    async def begin(self) -> None:
        """What the service does once before its first call."""
        if self.parts.start is not None:
            await self.parts.start()


@dataclass(slots=True)
class Unit(Desk):
    """A service with all that it does."""

    relay: Relay
    consumers: list[Consumer]
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @classmethod
    def build(
        cls, definition: ServiceDefinition, db: Database, broker: Broker, shared: Shared, telemetry: Telemetry,
        redis: Redis | None = None,
    ) -> Unit:  # fmt: skip
        """Puts it together; nothing runs yet."""
        relay = Relay(db, cast("Broker", TracedBroker(broker, telemetry)) if telemetry.traced else broker)
        desk = Desk.open(definition, db, shared, telemetry, redis, relay.wake)
        heard = desk.parts.subscriptions
        told = {each.queue: tuple(each.bindings) for each in heard}
        assert told == {queue: tuple(names) for queue, names in definition.hears.items()}, f"{definition.name}: {told}"
        consumers = [
            Consumer(db, broker, traced(each, telemetry) if telemetry.traced else each, clock=shared.clock)
            for each in heard
        ]
        return cls(definition, desk.runtime, desk.parts, desk.pipeline, relay, consumers)

    def wake(self) -> None:
        """Another process has written to its database: there may be events to publish, and work for its workers."""
        self.relay.wake()
        for wake in self.parts.wakes:
            wake()

    async def consume(self) -> None:
        """Declares its queues and hears events."""
        for consumer in self.consumers:
            await consumer.start()

    def work(self) -> None:
        """Publishes events, and does what the service does beside its calls."""
        self.relay.start()
        workers: list[Worker] = [IdempotencyPruner(self.runtime), *self.parts.workers]
        self._tasks = [asyncio.create_task(keep_running(each.run, self.runtime.telemetry)) for each in workers]

    async def stop(self) -> None:
        """Ends workers, then consumers, then the relay; what is left is done at the next start."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(consumer.stop() for consumer in self.consumers))
        await self.relay.stop()


async def keep_running(run: Callable[[], Awaitable[None]], telemetry: Telemetry) -> None:
    """Runs until cancelled; what fails is logged and begins again after a pause that grows."""
    pause = 0.1
    while True:
        try:
            await run()
            return
        except Exception as error:
            name = type(getattr(run, "__self__", run)).__name__
            telemetry.log.error("worker failed and starts again", worker=name, exc_info=error)
        await asyncio.sleep(pause)
        pause = min(pause * 2, 30)
