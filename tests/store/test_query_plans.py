"""What is hot finds its rows by an index, on both databases, however many there are (TASK-10, OPS-9).

Each case runs the service's own code on some thousand rows; the statements are noted, then planned and run again by the
real database. None reads a big table from end to end, none looks at more than some rows for each that it answers with,
and none sorts where an index has the order.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any, Final

import asyncpg  # type: ignore[import-untyped]
import pytest

from taskman_sdk.proto.taskman.audit.v1.audit_pb import ListEventsRequest, ListEventsResponse
from taskman_sdk.proto.taskman.notification.v1.notification_pb import (
    ListDeliveriesRequest,
    ListDeliveriesResponse,
    ListNotificationsRequest,
    ListNotificationsResponse,
)
from taskman_sdk.proto.taskman.task.v1.task_pb import (
    CreateTaskRequest,
    GetTaskRequest,
    ListTasksRequest,
    ListTasksResponse,
    SearchTasksRequest,
    SearchTasksResponse,
    Task,
    UpdateTaskRequest,
)
from taskman_server.kit.broker import Message, store
from taskman_server.kit.broker.embedded import EmbeddedBroker
from taskman_server.kit.db.postgres import PostgresDatabase
from taskman_server.kit.db.sqlite import SqliteDatabase
from taskman_server.kit.event_tables import IDEMPOTENCY, INBOX, OUTBOX
from taskman_server.kit.ids import new_id
from taskman_server.kit.outbox import Consumer
from taskman_server.kit.relay import Relay
from taskman_server.services import audit, authentication, notifications, users
from taskman_server.services.audit.rules import Draft
from taskman_server.services.audit.stores import store_of
from taskman_server.services.authentication.store import AuthenticationStore
from taskman_server.services.authentication.store import tables as accounts
from taskman_server.services.notifications import tables as notes
from taskman_server.services.notifications.store import NotificationStore
from taskman_server.services.users.store import USERS, UserStore, keyset
from tests.bench.growth_data import ADMIN, MEMBER, ORGANIZATION, fill, lot, word
from tests.store.audit.house import open_house
from tests.store.databases import Databases
from tests.store.plans import START, fill_table, noted, ways
from tests.store.tasks import harness

ROWS: Final = 4000
BIG: Final = frozenset(
    {"tasks", "task_labels", "task_assignees", "task_search", "outbox", "inbox", "idempotency"}
    | {"messages", "records", "record_keys", "notifications", "deliveries", "attempts", "recipients"}
    | {"credentials", "sessions", "refresh_tokens", "action_tokens", "throttles", "known_addresses", "mail_requests"}
    | {"users"}
)
WORK: Final[Mapping[str, int]] = {"sqlite": 20_000, "postgresql": 3000}
"""How much a page of 50 tasks may take with a member's rights; see `Way.work`. All `ROWS` would be several times it."""


@dataclass
class Hot:
    """A service's database with much in it, and what is hot there."""

    db: SqliteDatabase | PostgresDatabase
    kind: str

    async def check(
        self, name: str, asked: Awaitable[Any], *, sorts: bool = False, scans: bool = False, work: int = 0
    ) -> Any:
        """Runs it and looks how that was done. `sorts`: the few rows that were found are put in order afterwards.
        `scans`: a table may be read from its beginning, as the work is bounded. `work`: the most, where that is not a
        page's."""
        with noted(self.db) as run:
            answer = await asked
        for sql, way in await ways(self.db, run):
            told = f"{name} on {self.kind}\n{sql}\n{way}"
            # An index is followed until there is a page of it: the work says how far.
            follows = self.kind == "sqlite" and "LIMIT" in sql and not way.sorts
            assert scans or follows or BIG.isdisjoint(way.scans), told
            assert way.work <= (work or WORK[self.kind]), told
            assert sorts or not way.sorts, told
        return answer

    async def analyze(self) -> None:
        """As PostgreSQL does by itself a minute later; SQLite is never told."""
        if isinstance(self.db, PostgresDatabase):
            connection = await asyncpg.connect(self.db._url)
            await connection.execute("VACUUM ANALYZE")
            await connection.close()


async def test_tasks(databases: Databases) -> None:
    """TASK-1, TASK-6, TASK-10, GATE-5, EVENT-1: by id and key, lists and searches with a member's rights, a creation
    with its key, its idempotency and its event."""
    peers = harness.Peers(dict.fromkeys([ADMIN, MEMBER], (ORGANIZATION, "member", True)))
    async with harness.open_house(databases, peers=peers) as house:
        await fill(house.db, ROWS)
        await fill_table(house.db, OUTBOX, ROWS, sequence=lambda n: 10**6 + n)
        await fill_table(house.db, IDEMPOTENCY, ROWS)
        hot = Hot(house.db, databases.kind)
        await hot.analyze()

        async def ask(name: str, operation: str, request: Any, answer: type[Any], *, sorts: bool = False) -> Any:
            call = house.call(MEMBER, operation, request, answer, idempotency_key=f"{name}-{new_id('key')}")
            return await hot.check(name, call, sorts=sorts)

        task = await ask("get by key", "GetTask", GetTaskRequest(task="BIG-777"), Task)
        await ask("get by id", "GetTask", GetTaskRequest(task=task.id), Task)
        wanted = Task(project="BIG", title="Paint it", labels=["fix", "new"], assignees=[ADMIN])
        made = await ask("create", "CreateTask", CreateTaskRequest(task=wanted), Task)
        await ask("update", "UpdateTask", UpdateTaskRequest(task=Task(id=made.id, title="x", labels=["a"])), Task)
        lists = {
            "default": (50, ListTasksRequest()),
            "project": (50, ListTasksRequest(project="BIG")),
            "newest first": (50, ListTasksRequest(order_by="update_time desc")),
            "common label": (50, ListTasksRequest(filter='"fix" in labels')),
            "rare label": (20, ListTasksRequest(filter=f'"{lot(4)}" in labels')),
            "assignee": (50, ListTasksRequest(filter='"user_4" in assignees')),
            "state in a project": (20, ListTasksRequest(project="BIG", filter='state == "in_review"')),
            "urgent": (50, ListTasksRequest(filter='priority == "urgent"', order_by="due_time")),
            "due": (50, ListTasksRequest(filter='due_time > timestamp("2025-03-01T00:00:00Z")', order_by="due_time")),
        }
        for name, (count, request) in lists.items():
            few = ("rare label", "assignee", "state in a project")
            rare = name in few or (name == "common label" and hot.kind == "postgresql")  # of 4,000 it sorts 400
            answer = await ask(name, "ListTasks", request, ListTasksResponse, sorts=rare)
            assert len(answer.tasks) == count, name
            if token := answer.next_page_token:
                request.page_token = token
                page = house.call(MEMBER, "ListTasks", request, ListTasksResponse)
                # A place among times that may be missing is gone to from the first of them.
                work = 2 * WORK[hot.kind] if request.order_by == "due_time" else 0
                await hot.check(f"{name}, page 2", page, sorts=rare, work=work)
        found = await ask("search", "SearchTasks", SearchTasksRequest(query=word(4)), SearchTasksResponse, sorts=True)
        assert len(found.tasks) == 20

        async with AsyncExitStack() as stack:
            broker = await EmbeddedBroker.open(databases.folder / "relay.db")
            stack.push_async_callback(broker.close)
            await broker.declare("sink", ["#"])
            relay = Relay(house.db, broker)
            publish = broker.publish

            async def one_batch(messages: Sequence[Message]) -> None:
                await publish(messages)
                relay._stopping.set()

            broker.publish = one_batch  # type: ignore[method-assign]
            # A relay of several takes one row of each of the next 1,024 keys.
            await hot.check("outbox", relay.drain(), sorts=hot.kind == "postgresql", work=12_000)
            await hot.check("backlog", relay.backlog(), scans=True, work=10 * ROWS)  # counted to 10,000


@pytest.mark.parametrize("databases", ["sqlite"], indirect=True)
async def test_the_embedded_broker(databases: Databases) -> None:
    """EVENT-2: what is next in a queue among many, and its end."""
    async with AsyncExitStack() as stack:
        broker = await EmbeddedBroker.open(databases.folder / "broker.db")
        stack.push_async_callback(broker.close)
        for queue in ("one", "two", "three"):
            await broker.declare(queue, ["#"])
        queues = {"queue": lambda n: ("one", "two", "three")[n % 3], "attempts": lambda n: 0}
        await fill_table(broker._db, store.MESSAGES, ROWS, **queues)
        hot = Hot(broker._db, "sqlite")
        async with broker.consume("two", prefetch=50) as deliveries:
            # 256 are read at once, and handed out as they are asked for.
            batch = await hot.check("next", anext(deliveries), work=40_000)

            async def settle() -> None:
                await deliveries.ack(batch)
                await broker._ledger.settled()

            await hot.check("settled", settle())


async def test_the_audit_log(databases: Databases) -> None:
    """AUDIT-1, AUDIT-2, EVENT-3: an event is put at the end of the chain, once; lists are by sequence, time, actor,
    target and type."""
    async with open_house(audit.SERVICE, databases, run=False) as house:
        log = store_of(house.db)
        async with house.db.transaction() as tx:
            for first in range(0, ROWS, 100):
                await log.append(tx, [_draft(n) for n in range(first, min(first + 100, ROWS))], START)
        await fill_table(house.db, INBOX, ROWS, consumer=lambda n: "audit.log", event_id=lambda n: new_id("event"))
        hot = Hot(house.db, databases.kind)
        await hot.analyze()
        (heard,) = house.parts.subscriptions
        consumer = Consumer(house.db, house.broker, heard, clock=house.clock)
        told: Any = (SimpleNamespace(redriven=False), house.event("task.created", {}, subject="task_1"))
        await hot.check("append", consumer._apply_once([told]))
        for filter in (
            "",
            'actor == "user_7"',
            'target_id == "task_9"',
            'type == "task.kind3"',
            f'time > timestamp("{_LATE}")',
        ):
            request = ListEventsRequest(page_size=50, filter=filter)
            # PostgreSQL looks for their keys among the newest 256, then 2,048, and sorts what it finds there.
            windows = hot.kind == "postgresql"
            call = house.call("ListEvents", request, ListEventsResponse)
            sorts = windows or filter.startswith("time")
            found = await hot.check(filter, call, sorts=sorts, work=ROWS if windows else 0)
            assert found.events


_LATE: Final = (START + timedelta(minutes=ROWS - 60)).isoformat()


def _draft(n: int) -> Draft:
    return Draft(
        organization=ORGANIZATION, id=new_id("event"), type=f"task.kind{n % 40}", actor=f"user_{n % 100}",
        target_type="task", target_id=f"task_{n % 1000}", result="success", time=START + timedelta(minutes=n),
        request_id=f"req_{n}", source="/taskman/tasks", ip_address="", data="{}",
    )  # fmt: skip


async def test_notifications(databases: Databases) -> None:
    """NOTIF-1, NOTIF-5: an inbox, deliveries, what is due next in each organization, its attempts."""
    async with open_house(notifications.SERVICE, databases, run=False) as house:
        await fill_table(house.db, notes.RECIPIENTS, ROWS)
        ours = {"organization": lambda n: ORGANIZATION if n % 2 else f"org_{n % 50}"}
        await fill_table(house.db, notes.NOTIFICATIONS, ROWS, user=lambda n: f"user_{n % 100}", **ours)
        await fill_table(
            house.db, notes.DELIVERIES, ROWS, **ours, channel=lambda n: "webhook" if n % 4 else "email",
            state=lambda n: "pending" if n % 5 == 0 else "delivered", webhook=lambda n: f"id-{n % 10:05}",
            next_attempt_time=lambda n: START + timedelta(seconds=n) if n % 5 == 0 else None,
        )  # fmt: skip
        await fill_table(house.db, notes.WEBHOOKS, 10, **ours)
        await fill_table(house.db, notes.ATTEMPTS, ROWS, delivery=lambda n: f"id-{n:05}", number=lambda n: 1)
        hot = Hot(house.db, databases.kind)
        await hot.analyze()
        told = NotificationStore(house.db)
        someone = house.user("user_7", ORGANIZATION)
        inbox = house.call("ListNotifications", ListNotificationsRequest(), ListNotificationsResponse, caller=someone)
        assert (await hot.check("inbox", inbox)).notifications
        await hot.check("one entry", told.notification(ORGANIZATION, "user_7", "id-00007"))
        await hot.check("recipient", told.recipient(ORGANIZATION, "id-00007"))
        sent = house.call("ListDeliveries", ListDeliveriesRequest(), ListDeliveriesResponse)
        assert (await hot.check("deliveries and their attempts", sent, sorts=True)).deliveries
        now = START + timedelta(seconds=ROWS // 2)
        assert await hot.check("organizations due", told.organizations_due("webhook", now), sorts=True)
        for busy in ([], ["id-00001"]):
            assert await hot.check(f"due, {len(busy)} busy", _claim(told, now, busy), sorts=bool(busy))
        assert await hot.check("next due", told.next_due(now))


async def _claim(told: NotificationStore, now: datetime, busy: Sequence[str]) -> Any:
    async with told.claiming() as tx:
        lease = timedelta(minutes=1)
        return await told.claim(tx, "webhook", ORGANIZATION, now, lease, running=["id-00005"], busy=busy)


async def test_accounts(databases: Databases) -> None:
    """AUTH-2, AUTH-3, AUTH-5: sessions and tokens by their ids and hashes, credentials, failures to count, mails."""
    db = await databases.open(authentication.SERVICE)
    try:
        for table in (
            accounts.CREDENTIALS, accounts.SESSIONS, accounts.REFRESH_TOKENS, accounts.ACTION_TOKENS,
            accounts.THROTTLES, accounts.KNOWN_ADDRESSES, accounts.MAIL_REQUESTS,
        ):  # fmt: skip
            links = {"session": lambda n: f"id-{n:05}"} if table is accounts.REFRESH_TOKENS else {}
            await fill_table(db, table, ROWS, **links)
        hot = Hot(db, databases.kind)
        await hot.analyze()
        held = AuthenticationStore(db)
        now = START + timedelta(seconds=50)
        assert await hot.check("session", held.session_state("id-00007"))
        assert await hot.check("sign-in", held.credential_of_email("email-00007"))
        assert await hot.check("credential", held.credential("organization-00007", "user_id-00007"))
        assert await hot.check("throttles", held.throttles(["key-00007", "key-00008"]))
        assert await hot.check("known address", held.is_known_address("user_id-00007", "prefix-00007"))
        assert await hot.check("mails that are due", held.due_mails(now), sorts=True)
        assert await hot.check("next mail", held.next_mail_time())
        await hot.check("link", held.action_token("hash-00007", "purpose-00007", START))

        async def refresh_and_sign_out() -> None:
            async with db.transaction() as tx:
                assert await held.refresh_token(tx, "hash-00007")
                assert await held.end_sessions(tx, "organization-00007", "user_id-00007", "left", now) == 1

        await hot.check("refresh and sign-out", refresh_and_sign_out())
    finally:
        await db.close()


async def test_users(databases: Databases) -> None:
    """USER-1, USER-2: by id, by address, several at once, a page in each order."""
    db = await databases.open(users.SERVICE)
    try:
        await fill_table(db, USERS, ROWS, organization=lambda n: ORGANIZATION, registration=lambda n: f"r-{n}")
        hot = Hot(db, databases.kind)
        await hot.analyze()
        people = UserStore(db)
        assert await hot.check("by id", people.get(ORGANIZATION, "id-00007"))
        assert await hot.check("by address", people.by_email("email-00007"))
        several = people.several(ORGANIZATION, ["id-00007", "id-00009"], ["email-00011"], [])
        assert len(await hot.check("several", several)) == 3
        many = [f"id-{n:05}" for n in range(0, ROWS, 100)]
        assert len(await hot.check("many", people.several(ORGANIZATION, many, [], []))) == len(many)
        for order in ("create_time", "display_name", "email"):
            page = people.page(ORGANIZATION, [], keyset(order, descending=True), 51)
            assert len(await hot.check(order, page)) == 51
    finally:
        await db.close()
