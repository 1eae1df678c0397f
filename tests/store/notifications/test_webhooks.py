"""Webhooks: kept, signed, sent, tried again, and never to where they must not go (NOTIFY-2, NOTIFY-5, NOTIFY-7)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from standardwebhooks import Webhook as Verifier

from taskman_sdk import codec
from taskman_sdk.errors import AbortedError, FailedPreconditionError, InvalidArgumentError, NotFoundError
from taskman_sdk.proto.taskman.notification.v1.notification_pb import (
    CreateWebhookRequest,
    DeleteWebhookRequest,
    DeleteWebhookResponse,
    Delivery,
    GetDeliveryRequest,
    GetWebhookRequest,
    ListDeliveriesRequest,
    ListDeliveriesResponse,
    ListWebhooksRequest,
    ListWebhooksResponse,
    RetryDeliveryRequest,
    UpdateWebhookRequest,
    Webhook,
)
from taskman_sdk.proto.taskman.task.v1.task_pb import Task, TaskEvent
from taskman_server.kit.clock import ManualClock
from taskman_server.kit.events import Event
from taskman_server.kit.ids import new_id
from taskman_server.services.notifications import SERVICE
from taskman_server.services.notifications.worker import LEASE
from tests.store.audit.house import ORGANIZATION, House, open_house
from tests.store.notifications.receivers import Answer, HookServer
from tests.store.support import start_child, until


def a_task_event(house: House, name: str = "task.created", **values: object) -> Event:
    task = Task(id=new_id("task"), title="Grün <b>")
    return house.event(name, TaskEvent(task=task), **{"subject": task.id} | values)


async def create(house: House, url: str, *event_types: str, **values: object) -> Webhook:
    webhook = Webhook(url=url, event_types=list(event_types), **values)  # type: ignore[arg-type]
    return await house.call("CreateWebhook", CreateWebhookRequest(webhook=webhook), Webhook)


async def deliveries(house: House, filter: str = "") -> list[Delivery]:
    answer = await house.call("ListDeliveries", ListDeliveriesRequest(filter=filter), ListDeliveriesResponse)
    return list(answer.deliveries)


async def attempted(house: House, count: int) -> list[Delivery]:
    async def there() -> bool:
        return (await house.rows("SELECT count(*) FROM attempts"))[0][0] >= count

    await until(there)
    return await deliveries(house)


def wake(house: House, seconds: float = 0) -> None:
    house.clock.advance(seconds)
    house.parts.workers[0].wake()  # type: ignore[attr-defined]


async def looked(house: House) -> None:
    """Returns when the worker has looked for what is due."""

    async def done() -> bool:
        return not house.parts.workers[0]._wake.is_set()  # type: ignore[attr-defined]

    await until(done)


async def test_an_event_is_posted_signed_as_standard_webhooks_asks(house: House, hooks: HookServer) -> None:
    """NOTIFY-2: any receiver with the standard's library can verify it."""
    webhook = await create(house, hooks.url, "task.*")
    assert webhook.secret.startswith("whsec_")
    event = a_task_event(house)
    await house.publish(event, house.event("authz.denied", {}))
    (hook,) = await hooks.arrived(1)
    body = json.loads(hook.body)
    assert (hook.method, hook.path, hook.headers["content-type"]) == ("POST", "/hook", "application/json")
    assert Verifier(webhook.secret).verify(hook.body, hook.headers) == body
    assert body["type"] == "task.created"
    assert (body["id"], body["data"]["task"]["title"]) == (event.id, "Grün <b>")
    assert datetime.fromisoformat(body["timestamp"]) == event.time
    (delivery,) = await attempted(house, 1)
    assert hook.headers["webhook-id"] == delivery.id
    assert (delivery.channel, delivery.state, delivery.webhook, delivery.event) == (
        "webhook", "delivered", webhook.id, event.id,
    )  # fmt: skip
    assert [(a.status_code, a.error) for a in delivery.attempts] == [(204, "")]
    assert not delivery.next_attempt_time


async def test_the_secret_is_in_the_answer_to_the_creation_alone(house: House, hooks: HookServer) -> None:
    """NOTIFY-2: not in reads, lists or events."""
    webhook = await create(house, hooks.url, description="CI")
    assert await house.rows("SELECT secret FROM webhooks") == [(webhook.secret,)]
    got = await house.call("GetWebhook", GetWebhookRequest(webhook=webhook.id), Webhook)
    listed = await house.call("ListWebhooks", ListWebhooksRequest(filter="!disabled"), ListWebhooksResponse)
    assert [got.secret, *(each.secret for each in listed.webhooks)] == ["", ""]
    await create(house, hooks.url, "notification.webhook.created")
    later = await create(house, hooks.url)

    async def told() -> bool:
        return any(later.id.encode() in hook.body for hook in hooks.hooks)

    await until(told)
    assert not any(b"whsec_" in hook.body for hook in hooks.hooks)


async def test_webhooks_can_be_changed_listed_and_deleted(house: House) -> None:
    """NOTIFY-2: with masks, etags, pages, and each change an event."""
    made = [await create(house, f"https://hooks.example.com/{n}", "task.created") for n in range(3)]
    change = Webhook(id=made[0].id, disabled=True, description="off", etag=made[0].etag)
    request = UpdateWebhookRequest(webhook=change, update_mask=codec.FieldMask(paths=["disabled", "description"]))
    changed = await house.call("UpdateWebhook", request, Webhook)
    assert (changed.disabled, changed.description, changed.url) == (True, "off", made[0].url)
    assert changed.etag != made[0].etag
    with pytest.raises(AbortedError):
        await house.call("UpdateWebhook", request, Webhook)
    same = UpdateWebhookRequest(webhook=Webhook(id=made[0].id, description="off"))
    assert (await house.call("UpdateWebhook", same, Webhook)).etag == changed.etag
    mask = codec.FieldMask(paths=["secret"])
    secret = UpdateWebhookRequest(webhook=Webhook(id=made[0].id), update_mask=mask)
    with pytest.raises(InvalidArgumentError, match="secret"):
        await house.call("UpdateWebhook", secret, Webhook)
    first = await house.call("ListWebhooks", ListWebhooksRequest(page_size=2), ListWebhooksResponse)
    rest = await house.call(
        "ListWebhooks", ListWebhooksRequest(page_size=2, page_token=first.next_page_token), ListWebhooksResponse
    )
    assert [w.id for w in (*first.webhooks, *rest.webhooks)] == [w.id for w in made]
    on = await house.call(
        "ListWebhooks", ListWebhooksRequest(filter='!disabled && url.endsWith("/2")'), ListWebhooksResponse
    )
    assert [w.id for w in on.webhooks] == [made[2].id]
    with pytest.raises(AbortedError):
        await house.call("DeleteWebhook", DeleteWebhookRequest(webhook=made[1].id, etag="old"), DeleteWebhookResponse)
    await house.call(
        "DeleteWebhook", DeleteWebhookRequest(webhook=made[1].id, etag=made[1].etag), DeleteWebhookResponse
    )
    for name in (made[1].id, "webhook_none"):
        with pytest.raises(NotFoundError):
            await house.call("GetWebhook", GetWebhookRequest(webhook=name), Webhook)
    stranger = house.user("user_x", "org_two")
    with pytest.raises(NotFoundError):
        await house.call("GetWebhook", GetWebhookRequest(webhook=made[0].id), Webhook, caller=stranger)


async def test_policies_narrow_webhooks_and_deliveries(house: House, hooks: HookServer) -> None:
    """AUTHZ-5: lists and single reads alike."""
    one, two = await create(house, hooks.url), await create(house, hooks.url)
    await house.publish(a_task_event(house))
    await attempted(house, 2)
    condition = f'resource.webhook == "{one.id}"'
    house.peers.policies |= {"webhooks.read": condition, "deliveries.read": condition}
    seen = await house.call("ListWebhooks", ListWebhooksRequest(), ListWebhooksResponse, caller=house.user("user_b"))
    assert [w.id for w in seen.webhooks] == [one.id]
    listed = await house.call(
        "ListDeliveries", ListDeliveriesRequest(), ListDeliveriesResponse, caller=house.user("user_b")
    )
    assert [d.webhook for d in listed.deliveries] == [one.id]
    with pytest.raises(NotFoundError):
        await house.call("GetWebhook", GetWebhookRequest(webhook=two.id), Webhook, caller=house.user("user_b"))
    ((hidden,),) = await house.rows(f"SELECT id FROM deliveries WHERE webhook = '{two.id}'")
    with pytest.raises(NotFoundError):
        await house.call("GetDelivery", GetDeliveryRequest(delivery=hidden), Delivery, caller=house.user("user_b"))


async def test_another_organization_hears_nothing(house: House, hooks: HookServer) -> None:
    """Tenancy: nor is anything sent for events of no organization."""
    await create(house, hooks.url)
    await house.publish(
        a_task_event(house, organization="org_two"), a_task_event(house, organization=""), a_task_event(house)
    )
    await attempted(house, 1)
    assert len(hooks.hooks) == 1
    assert await house.rows("SELECT DISTINCT organization FROM deliveries") == [(ORGANIZATION,)]


async def test_a_failing_receiver_is_tried_again_with_growing_pauses(house: House, hooks: HookServer) -> None:
    """NOTIFY-2: eight attempts over most of a day, the same id each time, then it has failed."""
    webhook = await create(house, hooks.url, "task.created")
    hooks.answers += [Answer(500)] * 8
    await house.publish(a_task_event(house))
    pauses: list[float] = []
    for attempt in range(1, 8):
        (delivery,) = await attempted(house, attempt)
        assert delivery.state == "pending"
        assert delivery.next_attempt_time is not None
        pauses.append((delivery.next_attempt_time.to_datetime() - house.clock.now()).total_seconds())
        wake(house, pauses[-1] - 0.01)
        await looked(house)
        assert (await deliveries(house))[0].next_attempt_time == delivery.next_attempt_time, "it was taken too early"
        wake(house, 0.02)
    (delivery,) = await attempted(house, 8)
    assert (delivery.state, len(delivery.attempts), len(hooks.hooks)) == ("failed", 8, 8)
    assert {hook.headers["webhook-id"] for hook in hooks.hooks} == {delivery.id}
    assert len({hook.headers["webhook-timestamp"] for hook in hooks.hooks}) > 5
    assert delivery.attempts[0].error == "The receiver answered 500."
    for pause, base in zip(pauses, (5, 30, 120, 600, 3600, 14400, 36000), strict=True):
        assert 0.8 * base <= pause <= 1.2 * base
    # The receiver is well again, and an operator sends it once more: the same id and bytes, signed anew.
    await house.call("RetryDelivery", RetryDeliveryRequest(delivery=delivery.id), Delivery)
    again = (await hooks.arrived(9))[8]
    assert again.body == hooks.hooks[0].body
    assert again.headers["webhook-id"] == delivery.id
    (delivery,) = await attempted(house, 9)
    assert delivery.state == "delivered"
    assert webhook.id == delivery.webhook


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (lambda now: "90", 90),
        (lambda now: format_datetime(now + timedelta(seconds=300), usegmt=True), 300),
        (lambda now: "1", 5),
        (lambda now: "soon", 5),
        (lambda now: "999999999999", 86400),
    ],
)
async def test_a_receiver_can_ask_for_time(
    house: House, hooks: HookServer, header: Callable[[datetime], str], seconds: float
) -> None:
    """NOTIFY-2: Retry-After, in seconds or as a date, between our pause and a day."""
    await create(house, hooks.url)
    hooks.answers.append(Answer(429, (("Retry-After", header(house.clock.now())),)))
    await house.publish(a_task_event(house))
    (delivery,) = await attempted(house, 1)
    assert delivery.next_attempt_time is not None
    pause = (delivery.next_attempt_time.to_datetime() - house.clock.now()).total_seconds()
    assert seconds * 0.79 <= pause <= seconds * 1.21


async def test_a_receiver_that_is_gone_is_not_called_again(house: House, hooks: HookServer) -> None:
    """NOTIFY-2: 410 disables the webhook; what waits for it fails."""
    webhook = await create(house, hooks.url, "task.*", "notification.webhook.updated")
    other = await create(house, hooks.url, "notification.webhook.updated")
    hooks.answers.append(Answer(410))
    await house.publish(a_task_event(house))
    await hooks.arrived(2)
    got = await house.call("GetWebhook", GetWebhookRequest(webhook=webhook.id), Webhook)
    assert got.disabled
    told = json.loads(hooks.hooks[1].body)
    assert (told["type"], told["actor"]) == ("notification.webhook.updated", "service:notifications")
    assert told["data"]["webhook"]["disabled"]
    await house.publish(a_task_event(house))
    assert len(hooks.hooks) == 2
    (failed,) = await deliveries(house, 'state == "failed"')
    assert failed.attempts[0].status_code == 410
    with pytest.raises(FailedPreconditionError, match="disabled"):
        await house.call("RetryDelivery", RetryDeliveryRequest(delivery=failed.id), Delivery)
    assert other.id != webhook.id


async def test_what_waits_for_a_deleted_webhook_fails(house: House, hooks: HookServer) -> None:
    """NOTIFY-5."""
    webhook = await create(house, hooks.url)
    hooks.answers.append(Answer(503))
    await house.publish(a_task_event(house))
    await attempted(house, 1)
    await house.call("DeleteWebhook", DeleteWebhookRequest(webhook=webhook.id), DeleteWebhookResponse)
    wake(house, 60)
    (delivery,) = await attempted(house, 2)
    assert (delivery.state, delivery.attempts[1].error) == ("failed", "The webhook was deleted.")
    with pytest.raises(FailedPreconditionError, match="deleted"):
        await house.call("RetryDelivery", RetryDeliveryRequest(delivery=delivery.id), Delivery)


async def test_news_of_deliveries_goes_where_it_is_asked_for_and_makes_no_more(house: House, hooks: HookServer) -> None:
    """NOTIFY-2: `*` does not hear of deliveries; who asks by name does, but not about that."""
    everything = await create(house, hooks.url, "*")
    named = await create(house, hooks.url, "notification.*")
    await house.heard()
    await attempted(house, 1)
    before = len(await deliveries(house))
    await house.publish(a_task_event(house))
    await hooks.arrived(before + 2)
    await house.heard()
    sent = [(json.loads(h.body)["type"], h.headers["webhook-id"]) for h in hooks.hooks[before:]]
    assert [kind for kind, _ in sent] == ["task.created", "notification.delivered"]
    by_webhook = {(d.webhook, d.event_type) for d in await deliveries(house)}
    assert (everything.id, "notification.delivered") not in by_webhook
    assert (named.id, "notification.delivered") in by_webhook


async def test_a_process_that_is_killed_after_sending_sends_once_more_under_the_same_id(
    tmp_path: Path, hooks: HookServer
) -> None:
    """NOTIFY-5, EVENT-1: at least once, whatever is killed."""
    clock = ManualClock(datetime.now(UTC))
    async with open_house(SERVICE, tmp_path, clock=clock, run=False, webhook_allow_private=True) as house:
        webhook = await create(house, hooks.url)
        async with house.db.transaction() as tx:
            await house.parts.handlers._queue.webhook(  # type: ignore[attr-defined]
                tx, "{}", organization=ORGANIZATION, webhook=webhook.id, url=hooks.url, event_type="task.created",
                event="event_1", request_id="",
            )  # fmt: skip
    hooks.hold = asyncio.Event()
    child = start_child(
        """
        import asyncio, sys
        from pathlib import Path
        from taskman_server.services.notifications import SERVICE
        from tests.store.audit.house import open_house

        async def main():
            async with open_house(SERVICE, Path(sys.argv[1]), webhook_allow_private=True):
                await asyncio.Event().wait()

        asyncio.run(main())
        """,
        tmp_path,
    )
    try:
        (first,) = await hooks.arrived(1)
    finally:
        child.kill()
        child.wait(10)
    hooks.hold.set()
    hooks.hold = None
    clock.advance(300)
    async with open_house(SERVICE, tmp_path, clock=clock, webhook_allow_private=True) as house:
        second = (await hooks.arrived(2))[1]
        (delivery,) = await attempted(house, 1)
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == delivery.id
    assert first.body == second.body
    assert LEASE.total_seconds() < 300
