"""Where webhooks may go, and where never (NOTIFY-7)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest

from taskman_sdk.errors import InvalidArgumentError
from taskman_sdk.proto.taskman.notification.v1.notification_pb import (
    CreateWebhookRequest,
    UpdateWebhookRequest,
    Webhook,
)
from taskman_sdk.proto.taskman.task.v1.task_pb import Task, TaskEvent
from taskman_server.kit.clock import SystemClock
from taskman_server.services.notifications import SERVICE
from taskman_server.services.notifications.rules import Address, webhook_secret
from taskman_server.services.notifications.webhooks import WebhookSender
from tests.store.audit.house import House, open_house
from tests.store.databases import Databases
from tests.store.notifications.conftest import Certificates
from tests.store.notifications.receivers import Answer, HookServer, hook_server
from tests.store.support import until

SECRET = webhook_secret(b"s" * 32)


async def create(house: House, url: str, *event_types: str, **values: object) -> Webhook:
    webhook = Webhook(url=url, event_types=list(event_types), **values)  # type: ignore[arg-type]
    return await house.call("CreateWebhook", CreateWebhookRequest(webhook=webhook), Webhook)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://hooks.example.com/", "WEBHOOK_URL_NOT_HTTPS"),
        ("http://127.0.0.1/", "WEBHOOK_URL_NOT_HTTPS"),
        ("https://127.0.0.1/", "WEBHOOK_URL_PRIVATE"),
        ("https://localhost/", "WEBHOOK_URL_PRIVATE"),
        ("https://LOCALHOST./", "WEBHOOK_URL_PRIVATE"),
        ("https://10.1.2.3:8443/x", "WEBHOOK_URL_PRIVATE"),
        ("https://[::1]/", "WEBHOOK_URL_PRIVATE"),
        ("https://[::ffff:192.168.0.1]/", "WEBHOOK_URL_PRIVATE"),
        ("https://169.254.169.254/latest/meta-data", "WEBHOOK_URL_PRIVATE"),
        ("https://user:pass@hooks.example.com/", "WEBHOOK_URL_INVALID"),
        ("https://hooks.example.com/#x", "WEBHOOK_URL_INVALID"),
        ("ftp://hooks.example.com/", "WEBHOOK_URL_INVALID"),
        ("https://hooks.example.com:0/", "WEBHOOK_URL_INVALID"),
        ("", "WEBHOOK_URL_MISSING"),
    ],
)
async def test_urls_that_could_never_be_called_are_refused_when_they_are_set(
    databases: Databases, url: str, reason: str
) -> None:
    """NOTIFY-7: with the field and what is wanted."""
    async with open_house(SERVICE, databases, run=False) as house:
        with pytest.raises(InvalidArgumentError) as refused:
            await create(house, url)
        assert refused.value.reason in (reason, "FIELD_INVALID")
        assert "url" in refused.value.field_violations[0].field
        made = await create(house, "https://hooks.example.com/x")
        if url:
            change = UpdateWebhookRequest(webhook=Webhook(id=made.id, url=url))
            with pytest.raises(InvalidArgumentError):
                await house.call("UpdateWebhook", change, Webhook)


def answering(*addresses: str) -> Callable[[str, int], object]:
    async def resolver(host: str, port: int) -> Sequence[Address]:
        return [ip_address(address) for address in addresses]

    return resolver


async def sent(sender: WebhookSender, url: str) -> tuple[str, str]:
    outcome = await sender.send(url, SECRET, "delivery_1", "{}")
    return outcome.kind, outcome.error


async def test_a_name_that_stands_for_this_machine_is_not_called(hooks: HookServer) -> None:
    """NOTIFY-7: by the machine's own resolver; a name says nothing, its address does."""
    port = hooks.url.rpartition(":")[2].partition("/")[0]
    sender = WebhookSender(SystemClock(), allow_private=False)
    for name in {"localhost", socket.gethostname()}:
        kind, error = await sent(sender, f"https://{name}:{port}/hook")
        assert kind == "retry"
        assert error == "Not called: its host is at an address that webhooks may not call."
    assert hooks.hooks == []


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["10.0.0.8"],
        ["93.184.216.34", "192.168.1.1"],
        ["100.64.0.1"],
        ["0.0.0.0"],
        ["224.0.0.1"],
        ["::1"],
        ["fd00::1"],
        ["fe80::1"],
        ["::ffff:127.0.0.1"],
        ["64:ff9b::7f00:1"],
        ["2002:7f00:1::"],
    ],
)
async def test_one_private_address_among_those_of_a_name_is_enough_to_refuse(
    hooks: HookServer, addresses: list[str]
) -> None:
    """NOTIFY-7: checked after DNS, every address, in every disguise."""
    sender = WebhookSender(SystemClock(), allow_private=False, resolver=answering(*addresses))  # type: ignore[arg-type]
    url = hooks.url.replace("http://127.0.0.1", "https://hooks.example.com")
    outcome = await sender.send(url, SECRET, "delivery_1", "{}")
    assert (outcome.kind, "may not call" in outcome.error) == ("retry", True)
    assert not any(str(ip_address(each)) in outcome.error for each in addresses), "it tells who asks what our DNS knows"
    assert any(str(ip_address(each)) in outcome.note for each in addresses), "our own log shall have it"
    assert hooks.hooks == []


async def test_the_address_behind_a_name_is_for_our_log_alone(
    databases: Databases, capfd: pytest.CaptureFixture[str]
) -> None:
    """NOTIFY-7: a tenant must not read our internal DNS in the errors of deliveries."""
    async with open_house(SERVICE, databases) as house:

        async def inside(host: str, port: int) -> Sequence[Address]:
            return [IPv4Address("10.99.88.77")]

        house.parts.workers[0]._webhooks._resolver = inside  # type: ignore[attr-defined]
        await create(house, "https://db.internal.example/", "task.created")
        await house.publish(house.event("task.created", TaskEvent(task=Task(id="task_1")), subject="task_1"))

        async def attempted() -> Any:
            return await house.rows("SELECT error FROM attempts")

        ((error,),) = await until(attempted)
        assert error == "Not called: its host is at an address that webhooks may not call."
        assert not any("10.99.88.77" in str(row) for row in await house.rows("SELECT * FROM outbox"))
    logged = capfd.readouterr()
    assert "10.99.88.77" in logged.err + logged.out


async def test_the_metadata_service_is_never_called_and_plain_http_only_at_home() -> None:
    """NOTIFY-7: not even where private networks are allowed."""
    for url, address in [("https://x.example/", "169.254.169.254"), ("http://x.example/", "93.184.216.34")]:
        sender = WebhookSender(SystemClock(), allow_private=True, resolver=answering(address))  # type: ignore[arg-type]
        kind, error = await sent(sender, url)
        assert (kind, "may not call" in error) == ("retry", True)


async def test_a_redirect_is_not_followed(hooks: HookServer) -> None:
    """NOTIFY-7: a public receiver cannot send us to a private one."""
    async with hook_server() as inner:
        hooks.answers.append(Answer(307, (("Location", inner.url),)))
        sender = WebhookSender(SystemClock(), allow_private=True)
        kind, error = await sent(sender, hooks.url)
        assert (kind, error) == ("retry", "The receiver answered 307: redirects are not followed.")
        assert inner.hooks == []


async def test_proxies_of_the_environment_are_not_used(hooks: HookServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """NOTIFY-7: a proxy would resolve the name once more, unchecked."""
    async with hook_server() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        sender = WebhookSender(SystemClock(), allow_private=True)
        assert await sent(sender, hooks.url) == ("delivered", "")
        assert proxy.hooks == []


async def test_the_address_that_was_checked_is_the_one_that_is_called(certificates: Certificates) -> None:
    """NOTIFY-7: one look-up only (DNS rebinding), and the certificate is still checked against the name."""
    asked: list[str] = []

    async def resolver(host: str, port: int) -> Sequence[Address]:
        asked.append(host)
        return [IPv6Address("::ffff:127.0.0.1"), IPv4Address("127.0.0.1")][len(asked) % 2 :]

    async with hook_server(certificates.server) as receiver:
        port = receiver.url.rpartition(":")[2]
        sender = WebhookSender(SystemClock(), allow_private=True, tls=certificates.client, resolver=resolver)
        assert await sent(sender, f"https://hooks.example.com:{port}") == ("delivered", "")
        assert asked == ["hooks.example.com"]
        assert receiver.hooks[0].headers["host"].startswith("hooks.example.com")
        kind, error = await sent(sender, f"https://other.example.com:{port}")
        assert (kind, error) == ("retry", "The call failed: its certificate or TLS is not good.")


async def test_receivers_that_misbehave_cost_little(hooks: HookServer) -> None:
    """NOTIFY-2: too slow, too long, not HTTP, not there."""
    sender = WebhookSender(SystemClock(), allow_private=True, timeout=0.3)
    hooks.answers.append(Answer(200, (), b"x" * 1_000_000))
    assert await sent(sender, hooks.url) == ("delivered", "")
    hooks.answers.append(Answer(99))
    assert (await sent(sender, hooks.url))[0] == "retry"
    hooks.hold = asyncio.Event()
    assert await sent(sender, hooks.url) == ("retry", "No answer within 0.3 seconds.")
    hooks.hold.set()
    nobody = socket.create_server(("127.0.0.1", 0))
    port = nobody.getsockname()[1]
    nobody.close()
    assert await sent(sender, f"http://127.0.0.1:{port}/") == ("retry", "The call failed: no connection.")

    async def unknown(host: str, port: int) -> Sequence[Address]:
        raise socket.gaierror("no such host")

    lost = WebhookSender(SystemClock(), allow_private=True, resolver=unknown)
    assert await sent(lost, "https://x.example/") == ("retry", "The call failed: its name has no address.")
