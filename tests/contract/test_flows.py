"""The two flows of the architecture, all consumers included, over every wire (EVENT-4)."""

from __future__ import annotations

from typing import Any

from standardwebhooks import Webhook

from tests.contract.waiting import eventually
from tests.contract.world import PASSWORD, Person, Site, project_key, unique

Json = dict[str, Any]


async def test_registration(site: Site, admin: Person) -> None:
    """EVENT-4, USER-1: client → user → event → auth record, default role, audit record, welcome mail."""
    email = f"{unique('flow')}@example.com"
    request = {"email": email, "password": PASSWORD, "display_name": "Flo"}
    headers = {"x-request-id": unique("registration-")}
    await site.wire.call("AuthenticationService.Register", request, None, headers)
    # The authentication record: they can sign in.
    flo = await site.arrived(email)
    # The user's record.
    user = await admin.call("UserService.GetUser", user=flo.id)
    assert (user["email"], user["display_name"], user["state"]) == (email, "Flo", "active")

    # The default role, once.
    async def role() -> list[Json]:
        listed = await admin.call("IamAdminService.ListAssignments", filter=f'principal == "{flo.id}"')
        found: list[Json] = listed["assignments"]
        return found

    (assignment,) = await eventually(role, "the default role")
    assert assignment["role"] == "member"
    # The audit records of both, with the request that caused them.
    created = await site.event(f'type == "user.created" && target_id == "{flo.id}"')
    given = await site.event(f'type == "iam.assignment.created" && target_id == "{assignment["id"]}"')
    assert created["request_id"] == given["request_id"] == headers["x-request-id"]
    assert created["source"] == "users"
    await site.event(f'type == "auth.login.succeeded" && actor == "{flo.id}"')
    # The welcome mail, once.
    welcome = await site.mail.wait(email)
    assert "Flo" in welcome.text

    async def delivered() -> list[Json]:
        filter = f'recipient == "{email}" && event_type == "user.created" && state == "delivered"'
        found: list[Json] = (await admin.call("NotificationService.ListDeliveries", filter=filter))["deliveries"]
        return found

    assert len(await eventually(delivered, "the delivery on record")) == 1
    assert len(site.mail.to(email)) == 1
    # No password or hash anywhere a reader of the log could see it.
    assert PASSWORD not in str(created) + str(given)
    assert "argon2" not in str(created)


async def test_task_creation(site: Site, admin: Person, ann: Person, bob: Person) -> None:
    """EVENT-4: permission → task → events → audit records, the assignee's inbox entry and mail, a signed webhook."""
    path = f"/{unique('flow')}"
    hook = await admin.call(
        "NotificationService.CreateWebhook",
        webhook={"url": site.hooks.url + path, "event_types": ["task.created", "task.assigned"]},
    )
    project = await ann.project(key=project_key())
    await ann.add(project["id"], bob)
    # Permission check: a stranger is refused, and nothing is made.
    stranger = await site.person("Stranger")
    refused = await stranger.refused("TaskService.CreateTask", task={"project": project["id"], "title": "no"})
    assert refused.http_status == 404
    headers = {"x-request-id": unique("creation-")}
    task = await ann.call(
        "TaskService.CreateTask",
        {"task": {"project": project["key"], "title": "Flow through", "assignees": [bob.id]}},
        headers,
    )
    assert task["key"] == f"{project['key']}-1"
    # Two events in one commit (open point 9), both on record with their cause.
    for name in ("task.created", "task.assigned"):
        record = await site.event(f'type == "{name}" && target_id == "{task["id"]}"')
        assert (record["actor"], record["result"]) == (ann.id, "success")
        assert record["request_id"] == headers["x-request-id"]
        assert record["data"]["task"]["title"] == "Flow through"

    # The assignee's inbox, once.
    async def entries() -> list[Json]:
        listed = await bob.call("NotificationService.ListNotifications", filter=f'target == "{task["id"]}"')
        found: list[Json] = listed["notifications"]
        return found

    (entry,) = await eventually(entries, "the inbox entry")
    assert entry["event_type"] == "task.assigned"
    # The mail.
    mail = await site.mail.wait(bob.email, lambda mail: task["key"] in mail.text)
    assert "Flow through" in mail.text
    # The webhooks, signed, one for each event.
    seen = {}
    for name in ("task.created", "task.assigned"):
        call = await site.hooks.wait(path, lambda call, name=name: f'"{name}"'.encode() in call.body)
        seen[name] = Webhook(hook["secret"]).verify(call.body, call.headers)
        assert seen[name]["type"] == name
    assert len(site.hooks.at(path)) == 2
    await admin.call("NotificationService.DeleteWebhook", webhook=hook["id"])
    # The chain that holds it all.
    assert (await admin.call("AuditService.VerifyEvents"))["valid"] is True
