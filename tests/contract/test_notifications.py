"""Inbox, mail, webhooks and deliveries, over every wire (NOTIFY-1, NOTIFY-2, NOTIFY-3, NOTIFY-5)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from taskman_sdk.errors import InvalidArgumentError, NotFoundError
from tests.contract.waiting import eventually
from tests.contract.world import Person, Site, unique

Json = dict[str, Any]


async def inbox(person: Person) -> list[Json]:
    """The entries of an inbox, newest first."""
    found: list[Json] = (await person.call("NotificationService.ListNotifications"))["notifications"]
    return found


async def webhook(site: Site, admin: Person, *event_types: str) -> tuple[Json, str]:
    """A webhook to a path of its own."""
    path = f"/{unique('hook')}"
    made = await admin.call(
        "NotificationService.CreateWebhook", webhook={"url": site.hooks.url + path, "event_types": list(event_types)}
    )
    return made, path


async def test_an_assignee_finds_it_in_the_inbox_and_in_the_mail(site: Site, ann: Person, bob: Person) -> None:
    """NOTIFY-1, NOTIFY-3: what, which task; read when it was read; text and HTML."""
    project = await ann.project()
    await ann.add(project["id"], bob)
    task = await ann.task(project["id"], "Mow <the> lawn & more", assignees=[bob.id])

    async def look() -> Json | None:
        return next((each for each in await inbox(bob) if each["target"] == task["id"]), None)

    entry = await eventually(look, "the inbox entry")
    assert entry["event_type"] == "task.assigned"
    assert task["key"] in entry["title"]
    assert entry.get("read_time") is None
    read = await bob.call("NotificationService.MarkNotificationRead", notification=entry["id"])
    assert read["read_time"]
    unread = await bob.call("NotificationService.ListNotifications", filter="read_time == null")
    assert entry["id"] not in [each["id"] for each in unread["notifications"]]
    mail = await site.mail.wait(bob.email, lambda mail: task["key"] in mail.subject + mail.text)
    assert "Mow <the> lawn & more" in mail.text
    assert "Mow &lt;the&gt; lawn &amp; more" in mail.html
    error = await ann.refused("NotificationService.MarkNotificationRead", notification=entry["id"])
    assert isinstance(error, NotFoundError)


async def test_nobody_is_told_of_their_own_action(site: Site, ann: Person, bob: Person) -> None:
    """NOTIFY-3, open point 9."""
    project = await ann.project()
    await ann.add(project["id"], bob)
    task = await ann.task(project["id"], assignees=[ann.id, bob.id])

    async def look() -> bool:
        return any(each["target"] == task["id"] for each in await inbox(bob))

    await eventually(look, "the other's inbox entry")
    assert [each for each in await inbox(ann) if each["target"] == task["id"]] == []


async def test_a_webhook_is_signed_after_the_standard(site: Site, admin: Person, ann: Person) -> None:
    """NOTIFY-2: verified by somebody else's implementation; the secret is in the first answer alone."""
    made, path = await webhook(site, admin, "task.created")
    assert made["secret"].startswith("whsec_")
    assert (await admin.call("NotificationService.GetWebhook", webhook=made["id"]))["secret"] == ""
    task = await ann.task((await ann.project())["id"], "Tell them: ß")
    hook = await site.hooks.wait(path, lambda hook: task["id"].encode() in hook.body)
    event = Webhook(made["secret"]).verify(hook.body, hook.headers)
    assert event["type"] == "task.created"
    assert hook.headers["content-type"] == "application/json"
    assert hook.headers["webhook-id"].startswith("delivery_")
    with pytest.raises(WebhookVerificationError):
        Webhook(made["secret"]).verify(hook.body.replace(b"Tell", b"Sell"), hook.headers)
    await ann.call("TaskService.DeleteTask", task=task["id"])
    await site.event(f'type == "task.deleted" && target_id == "{task["id"]}"')
    assert {json.loads(each.body)["type"] for each in site.hooks.at(path)} == {"task.created"}
    await admin.call("NotificationService.DeleteWebhook", webhook=made["id"])


async def test_a_delivery_that_failed_is_on_record_and_sent_again_when_asked(
    site: Site, admin: Person, ann: Person
) -> None:
    """NOTIFY-5: every attempt with time and answer; a retry has the same id."""
    made, path = await webhook(site, admin, "project.created")
    site.hooks.answers[path] = 503
    project = await ann.project()
    hook = await site.hooks.wait(path, lambda hook: project["id"].encode() in hook.body)
    identifier = hook.headers["webhook-id"]

    async def attempted() -> Json | None:
        delivery = await admin.call("NotificationService.GetDelivery", delivery=identifier)
        return delivery if delivery["attempts"] else None

    delivery = await eventually(attempted, "the attempt on record")
    assert (delivery["channel"], delivery["state"], delivery["webhook"]) == ("webhook", "pending", made["id"])
    assert delivery["attempts"][0]["status_code"] == 503
    assert delivery["next_attempt_time"]
    site.hooks.answers[path] = 204
    await admin.call("NotificationService.RetryDelivery", delivery=identifier)

    async def delivered() -> Json | None:
        delivery = await admin.call("NotificationService.GetDelivery", delivery=identifier)
        return delivery if delivery["state"] == "delivered" else None

    delivery = await eventually(delivered, "the delivery")
    assert [attempt["status_code"] for attempt in delivery["attempts"]][-1] == 204
    assert {hook.headers["webhook-id"] for hook in site.hooks.at(path)} == {identifier}
    await admin.call("NotificationService.DeleteWebhook", webhook=made["id"])


async def test_deliveries_are_listed_by_event_and_channel(site: Site, admin: Person) -> None:
    """NOTIFY-5: the welcome mail of somebody who just came."""
    zoe = await site.new_person("Zoe")

    async def look() -> Json | None:
        filter = f'recipient == "{zoe.email}" && channel == "email" && state == "delivered"'
        listed = await admin.call("NotificationService.ListDeliveries", filter=filter)
        return next(iter(listed["deliveries"]), None)

    delivery = await eventually(look, "the delivery of the welcome mail")
    assert delivery["event_type"] == "user.created"
    assert delivery["attempts"][-1]["error"] == ""


async def test_a_webhook_changes_by_mask_and_can_be_switched_off(site: Site, admin: Person, ann: Person) -> None:
    """NOTIFY-2: nothing is sent while it is off."""
    made, path = await webhook(site, admin, "project.*")
    other, control = await webhook(site, admin, "project.*")
    off = await admin.call(
        "NotificationService.UpdateWebhook", webhook={"id": made["id"], "disabled": True}, update_mask="disabled"
    )
    assert (off["disabled"], off["event_types"], off["secret"]) == (True, ["project.*"], "")
    project = await ann.project()
    await site.hooks.wait(control, lambda hook: project["id"].encode() in hook.body)
    assert site.hooks.at(path) == []
    for each in (made, other):
        await admin.call("NotificationService.DeleteWebhook", webhook=each["id"])
    error = await admin.refused("NotificationService.GetWebhook", webhook=made["id"])
    assert isinstance(error, NotFoundError)


@pytest.mark.parametrize(
    "url",
    ["", "not a url", "ftp://example.com/x", "http://169.254.169.254/latest", "https://user:pw@example.com/", "http://",
     "https://example.com/#x", "file:///etc/passwd", "http://8.8.8.8/x"],
)  # fmt: skip
async def test_a_webhook_that_could_never_or_must_never_be_called_is_refused(site: Site, url: str) -> None:
    """NOTIFY-7: also where private addresses are allowed."""
    error = await (await site.admin()).refused("NotificationService.CreateWebhook", webhook={"url": url})
    assert isinstance(error, InvalidArgumentError)
    assert "webhook.url" in [each.field for each in error.field_violations]


async def test_an_event_that_is_none_is_refused(site: Site, admin: Person) -> None:
    """NOTIFY-2: a slip of the pen would never be called."""
    bad = {"url": site.hooks.url, "event_types": ["Task Created"]}
    error = await admin.refused("NotificationService.CreateWebhook", webhook=bad)
    assert [each.field for each in error.field_violations] == ["webhook.event_types[0]"]
