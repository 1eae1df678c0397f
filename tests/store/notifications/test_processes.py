"""Two processes of Notifications on one database: what is due is taken by one, and every attempt is on record."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from taskman_sdk.errors import FailedPreconditionError
from taskman_sdk.proto.taskman.notification.v1.notification_pb import (
    CreateWebhookRequest,
    MarkNotificationReadRequest,
    Notification,
    Webhook,
)
from taskman_sdk.proto.taskman.task.v1.task_pb import Task, TaskEvent
from taskman_server.kit.ids import new_id
from taskman_server.services.notifications import SERVICE
from taskman_server.services.notifications.handlers.webhooks import MAX_WEBHOOKS
from taskman_server.services.notifications.outcome import Attempt
from taskman_server.services.notifications.store import End, NotificationStore
from taskman_server.services.notifications.tables import ATTEMPTS, DELIVERIES, RECIPIENTS, WEBHOOKS
from taskman_server.services.notifications.worker import LEASE
from tests.store.audit.house import ORGANIZATION, House, open_house
from tests.store.databases import Databases
from tests.store.notifications.receivers import HookServer, MailServer
from tests.store.support import until

pytestmark = pytest.mark.parametrize("databases", ["postgresql"], indirect=True)
Pair = tuple[House, House]


@pytest.fixture
async def pair(databases: Databases, smtp: MailServer) -> AsyncIterator[Pair]:
    """Two processes of the service, whose workers are not at work yet."""
    settings: dict[str, Any] = {"smtp_url": smtp.url, "webhook_allow_private": True, "run": False}
    async with (
        open_house(SERVICE, databases, **settings) as one,
        open_house(SERVICE, databases, clock=one.clock, broker_file="other.db", **settings) as two,
    ):
        yield one, two


async def waiting(house: House, webhooks: list[Webhook], count: int) -> None:
    """Deliveries that are due."""
    queue: Any = house.parts.handlers._queue  # type: ignore[attr-defined]
    async with house.db.transaction() as tx:
        for n in range(count):
            webhook = webhooks[n % len(webhooks)]
            await queue.webhook(
                tx, "{}", organization=ORGANIZATION, webhook=webhook.id, url=webhook.url, event_type="task.created",
                event=f"event_{n}", request_id="",
            )  # fmt: skip


async def hook(house: House, url: str) -> Webhook:
    return await house.call("CreateWebhook", CreateWebhookRequest(webhook=Webhook(url=url)), Webhook)


async def test_what_is_due_is_sent_by_one_process(pair: Pair, hooks: HookServer) -> None:
    """NOTIFY-5: each delivery once, though both look for work all the time."""
    webhooks = [await hook(pair[0], f"{hooks.url}/{n}") for n in range(3)]
    await waiting(pair[0], webhooks, 60)
    workers = [asyncio.create_task(house.parts.workers[0].run()) for house in pair]
    try:

        async def all_ended() -> bool:
            row = await pair[0].db.fetch_one(
                sa.select(sa.func.count().label("n")).select_from(DELIVERIES).where(DELIVERIES.c.state == "delivered")
            )
            return row is not None and row.n == 60

        await until(all_ended)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    received = Counter(each.headers["webhook-id"] for each in hooks.hooks)
    assert len(received) == 60
    assert set(received.values()) == {1}
    attempts = await pair[0].db.fetch_all(sa.select(ATTEMPTS.c.delivery, ATTEMPTS.c.number))
    assert sorted(row.number for row in attempts) == [1] * 60


@pytest.mark.parametrize("busy", [False, True], ids=["free", "beside a busy webhook"])
async def test_two_who_take_at_once_get_different_deliveries(pair: Pair, busy: bool) -> None:
    """NOTIFY-5: until nothing is left."""
    webhooks = [await hook(pair[0], f"http://127.0.0.1:9/{n}") for n in range(5)]
    await waiting(pair[0], webhooks, 40)
    now = pair[0].clock.now()
    shunned = [webhooks[0].id] if busy else []

    async def take(house: House) -> list[str]:
        store, found = NotificationStore(house.db), []
        while True:
            async with store.claiming() as tx:
                rows = await store.claim(tx, "webhook", ORGANIZATION, now, LEASE, running=[], busy=shunned)
            if not rows:
                return found
            found += [row.id for row in rows]

    taken = [each for house in await asyncio.gather(*(take(pair[n % 2]) for n in range(4))) for each in house]
    # Who finds only what another one holds at that moment stops looking; the next look finds it.
    taken += await take(pair[0])
    assert len(taken) == len(set(taken)) == (32 if busy else 40)


async def test_a_row_that_was_taken_a_moment_ago_is_not_taken_again(pair: Pair) -> None:
    """NOTIFY-5: the other one commits between our look at the row and our lock on it."""
    webhooks = [await hook(pair[0], f"http://127.0.0.1:9/{n}") for n in range(2)]
    now = pair[0].clock.now()
    for turn in range(10):
        await waiting(pair[0], [webhooks[1]], 1)
        busy = [webhooks[0].id] if turn % 2 else []

        async def take(house: House, busy: list[str] = busy) -> Any:
            store = NotificationStore(house.db)
            async with store.claiming() as tx:
                return await store.claim(tx, "webhook", ORGANIZATION, now, LEASE, running=[], busy=busy)

        taken = await asyncio.gather(*(take(pair[n % 2]) for n in range(8)))
        assert len([row for rows in taken for row in rows]) == 1


async def test_two_who_record_the_same_delivery_number_their_attempts(pair: Pair) -> None:
    """NOTIFY-5: the lease of the first ran out while it was sending; only the second says what becomes of it."""
    webhook = await hook(pair[0], "http://127.0.0.1:9/")
    now = pair[0].clock.now()
    for _ in range(5):
        await waiting(pair[0], [webhook], 1)
        claims = []
        for n, house in enumerate(pair):
            store = NotificationStore(house.db)
            at = now + n * (LEASE + timedelta(seconds=1))
            async with store.claiming() as tx:
                (row,) = await store.claim(tx, "webhook", ORGANIZATION, at, LEASE, running=[])
            claims.append((house, row, at + LEASE))

        async def record(house: House, row: Any, claim: Any) -> bool:
            values = {"state": "delivered", "tries": 1, "next_attempt_time": None, "recipient": "", "payload": None}
            async with house.db.transaction() as tx:
                (ended,) = await NotificationStore(house.db).finish(
                    tx, [End(row, claim, Attempt(now, 200, "", 1), values)]
                )
                return ended is not None

        assert await asyncio.gather(*(record(*each) for each in claims)) == [False, True]
        (_, row, _) = claims[0]
        attempts = await NotificationStore(pair[0].db).attempts([row.id])
        assert [each.number for each in attempts[row.id]] == [1, 2]


async def test_an_organization_has_no_more_webhooks_than_it_may(pair: Pair) -> None:
    """NOTIFY-2."""
    for n in range(MAX_WEBHOOKS - 2):
        await hook(pair[0], f"http://127.0.0.1:9/{n}")
    results = await asyncio.gather(
        *(hook(pair[n % 2], f"http://127.0.0.1:9/more-{n}") for n in range(8)), return_exceptions=True
    )
    assert len([each for each in results if isinstance(each, FailedPreconditionError)]) == 6
    row = await pair[0].db.fetch_one(sa.select(sa.func.count().label("n")).select_from(WEBHOOKS))
    assert row is not None
    assert row.n == MAX_WEBHOOKS


async def test_of_what_events_say_of_a_user_the_newest_stays(pair: Pair) -> None:
    """NOTIFY-1: in any order, by any process, the first one too."""
    now = pair[0].clock.now()
    for turn in range(6):
        user = new_id("user")

        async def keep(house: House, n: int, user: str = user) -> None:
            async with house.db.transaction() as tx:
                await NotificationStore(house.db).keep_recipient(
                    tx, user, organization=ORGANIZATION, email=f"{n}@example.com", display_name="", locale="",
                    active=True, event_time=now + timedelta(seconds=n),
                )  # fmt: skip

        order = [3, 1, 5, 2, 4] if turn % 2 else [5, 4, 3, 2, 1]
        await asyncio.gather(*(keep(pair[n % 2], n) for n in order))
        row = await pair[0].db.fetch_one(sa.select(RECIPIENTS).where(RECIPIENTS.c.id == user))
        assert row is not None
        assert row.email == "5@example.com"


async def test_an_entry_is_read_once(pair: Pair) -> None:
    """NOTIFY-3: both are told the same time."""
    event = pair[0].event("task.assigned", TaskEvent(task=Task(id="task_1", title="T"), users=["user_ann"]))
    for subscription in pair[0].parts.subscriptions:
        if "task.assigned" in subscription.bindings:
            async with pair[0].db.transaction() as tx:
                await subscription.handler(event, tx)
    ((entry,),) = await pair[0].rows("SELECT id FROM notifications")
    request = MarkNotificationReadRequest(notification=entry)
    one, two = await asyncio.gather(
        *(house.call("MarkNotificationRead", request, Notification, caller=house.user("user_ann")) for house in pair)
    )
    assert one.read_time == two.read_time is not None
