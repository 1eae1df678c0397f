"""Nobody's slow receivers hold up anybody else's mail or webhooks (NOTIFY-1, NOTIFY-2, NOTIFY-5)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import IPv4Address

import pytest

from taskman_sdk.errors import FailedPreconditionError
from taskman_sdk.proto.taskman.notification.v1.notification_pb import (
    CreateWebhookRequest,
    DeleteWebhookRequest,
    DeleteWebhookResponse,
    MailVariable,
    SendMailRequest,
    SendMailResponse,
    Webhook,
)
from taskman_sdk.proto.taskman.task.v1.task_pb import Task, TaskEvent
from taskman_server.kit.events import Event
from taskman_server.kit.ids import new_id
from taskman_server.kit.rpc import service_principal
from taskman_server.services.notifications.handlers.webhooks import MAX_WEBHOOKS
from taskman_server.services.notifications.rules import Address
from taskman_server.services.notifications.slots import MAILS, WEBHOOKS, Slots
from tests.store.audit.house import House
from tests.store.notifications.receivers import HookServer, MailServer, hook_server
from tests.store.support import until

BAD, GOOD = "org_bad", "org_good"


@asynccontextmanager
async def black_hole() -> AsyncIterator[tuple[int, list[asyncio.StreamWriter]]]:
    """A socket that accepts and never answers: its port, and the connections that are open."""
    held: list[asyncio.StreamWriter] = []

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)
        try:
            while await reader.read(4096):
                pass
        except ConnectionError:
            pass
        finally:
            held.remove(writer)
            writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], held
    finally:
        server.close()
        for writer in held[:]:
            writer.close()


async def loopback(host: str, port: int) -> Sequence[Address]:
    """Every name is this machine's, as a wildcard record would have it."""
    return [IPv4Address("127.0.0.1")]


async def create(house: House, organization: str, url: str) -> Webhook:
    request = CreateWebhookRequest(webhook=Webhook(url=url, event_types=["task.created"]))
    return await house.call("CreateWebhook", request, Webhook, caller=house.user("user_admin", organization))


def a_task_event(house: House, organization: str) -> Event:
    task = Task(id=new_id("task"), title="x")
    return house.event("task.created", TaskEvent(task=task), subject=task.id, organization=organization)


async def states(house: House, organization: str, channel: str = "webhook") -> set[str]:
    rows = await house.rows(
        f"SELECT DISTINCT state FROM deliveries WHERE organization = '{organization}' AND channel = '{channel}'"
    )
    return {state for (state,) in rows}


async def test_sixty_receivers_that_never_answer_hold_up_nobody_else(
    house: House, hooks: HookServer, smtp: MailServer
) -> None:
    """NOTIFY-1, NOTIFY-2: another organization's reset mail and webhook arrive while the black holes still wait."""
    house.parts.workers[0]._webhooks._resolver = loopback  # type: ignore[attr-defined]
    async with black_hole() as (port, held):
        for n in range(MAX_WEBHOOKS):
            await create(house, BAD, f"http://hole{n}.example.com:{port}/")
        for n in range(MAX_WEBHOOKS, 60):
            await create(house, "org_bad_too", f"http://hole{n}.example.com:{port}/")
        await create(house, GOOD, hooks.url)
        await house.publish(a_task_event(house, BAD), a_task_event(house, "org_bad_too"))

        async def stuck() -> bool:
            return len(held) >= 6

        await until(stuck)
        await house.publish(a_task_event(house, GOOD))
        link = MailVariable(name="link", substitution="https://taskman.example/reset-password?token=tok_1")
        mail = SendMailRequest(template="password_reset", email="ann@example.com", variables=[link])
        caller = service_principal("authentication", GOOD)
        await house.call("SendMail", mail, SendMailResponse, caller=caller)
        await hooks.arrived(1)
        await smtp.arrived(1)

        async def recorded() -> bool:
            return await states(house, GOOD) == await states(house, GOOD, "email") == {"delivered"}

        await until(recorded)
        assert len(held) == 2 * WEBHOOKS.per_organization, "each of the two holds what it may, and no more"
        assert await house.rows("SELECT 1 FROM attempts WHERE organization LIKE 'org_bad%'") == []
        assert await states(house, BAD) == await states(house, "org_bad_too") == {"pending"}


async def test_a_receiver_gets_a_few_calls_at_once_and_all_arrive(house: House, hooks: HookServer) -> None:
    """NOTIFY-5: a slow receiver takes neither the service nor its own organization's other receivers."""
    house.parts.workers[0]._webhooks._resolver = loopback  # type: ignore[attr-defined]
    async with hook_server() as other:
        hooks.hold = asyncio.Event()
        await create(house, GOOD, hooks.url)
        await house.publish(*(a_task_event(house, GOOD) for _ in range(25)))
        await hooks.arrived(WEBHOOKS.per_host)
        await create(house, GOOD, other.url.replace("127.0.0.1", "other.example.com"))
        await house.publish(a_task_event(house, GOOD))
        await other.arrived(1)
        assert len(hooks.hooks) == WEBHOOKS.per_host, "the same host got more calls at once than it may"
        hooks.hold.set()
        hooks.hold = None
        await hooks.arrived(26)

        async def all_there() -> bool:
            return await states(house, GOOD) == {"delivered"}

        await until(all_there)


async def test_a_long_row_of_one_organization_does_not_hide_anothers(house: House, hooks: HookServer) -> None:
    """NOTIFY-5: what is due is picked in turns, whoever was first."""
    await create(house, BAD, hooks.url)
    await create(house, GOOD, hooks.url.replace("/hook", "/good"))
    hooks.hold = asyncio.Event()
    await house.publish(*(a_task_event(house, BAD) for _ in range(40)))
    await house.publish(a_task_event(house, GOOD))
    hooks.hold.set()
    hooks.hold = None
    await hooks.arrived(41)
    assert [hook.path for hook in hooks.hooks].index("/good") <= 2 * WEBHOOKS.per_host


async def test_an_organization_has_so_many_webhooks_and_no_more(house: House) -> None:
    """NOTIFY-2: each event is sent to each of them; another organization's do not count."""
    made = [await create(house, BAD, "https://hooks.example.com/") for _ in range(MAX_WEBHOOKS)]
    with pytest.raises(FailedPreconditionError, match=str(MAX_WEBHOOKS)) as refused:
        await create(house, BAD, "https://hooks.example.com/")
    assert refused.value.reason == "WEBHOOK_LIMIT"
    await create(house, GOOD, "https://hooks.example.com/")
    request = DeleteWebhookRequest(webhook=made[0].id)
    await house.call("DeleteWebhook", request, DeleteWebhookResponse, caller=house.user("user_admin", BAD))
    await create(house, BAD, "https://hooks.example.com/")


def test_slots_are_given_to_who_has_least_and_waited_longest() -> None:
    """NOTIFY-5: the order of picking, without a database."""
    slots = Slots(MAILS)
    assert slots.next(["org_a", "org_b"]) == "org_a"
    slots.take("1", "org_a", "")
    assert slots.next(["org_a", "org_b"]) == "org_b"
    slots.take("2", "org_b", "")
    assert slots.next(["org_a", "org_b"]) == "org_a"
    slots.give_back("2")
    slots.give_back("1")
    assert slots.next(["org_b", "org_a"]) == "org_a", "who was served longest ago"
    for n in range(MAILS.per_organization):
        slots.take(f"a{n}", "org_a", "")
    assert slots.next(["org_a"]) is None
    assert slots.next(["org_a", "org_b"]) == "org_b"
    for n in range(MAILS.total - MAILS.per_organization):
        slots.take(f"b{n}", f"org_{n}", "")
    assert slots.next(["org_new"]) is None
    hooks = Slots(WEBHOOKS)
    for n in range(WEBHOOKS.per_host):
        assert hooks.full_hosts == frozenset()
        hooks.take(str(n), f"org_{n}", "hooks.example.com")
    assert hooks.full_hosts == {"hooks.example.com"}
