"""Idempotency keys on every call that changes something, over every wire (GATE-5)."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from taskman_sdk import contract
from taskman_sdk.errors import AbortedError, InvalidArgumentError, TaskManError
from tests.contract.waiting import eventually
from tests.contract.world import Person, Site, project_key, unique

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """A call that changes something: by whom, with what, and what differs in another one."""

    person: Person
    request: Json
    change: Json

    @property
    def other(self) -> Json:
        """The request with the change in it."""
        merged = json.loads(json.dumps(self.request))
        for name, value in self.change.items():
            *parents, leaf = name.split(".")
            owner = merged
            for parent in parents:
                owner = owner[parent]
            owner[leaf] = value
        return dict(merged)


async def _task(site: Site) -> tuple[Person, Json]:
    ann = await site.person("Ann")
    return ann, await ann.task((await ann.project())["id"])


async def _reset(site: Site) -> Case:
    return Case(await site.person("Ann"), {"email": f"{unique('x')}@example.com"}, {"email": "y@example.com"})


async def _create_user(site: Site) -> Case:
    user = {"email": f"{unique('idem')}@example.com", "display_name": "I"}
    return Case(await site.admin(), {"user": user}, {"user.display_name": "J"})


async def _update_user(site: Site) -> Case:
    ann = await site.person("Ann")
    request = {"user": {"id": ann.id, "display_name": unique("Ann")}, "update_mask": "display_name"}
    return Case(ann, request, {"user.display_name": "Other"})


async def _deactivate(site: Site) -> Case:
    admin = await site.admin()
    users = [
        await admin.call("UserService.CreateUser", user={"email": f"{unique('d')}@example.com", "display_name": "D"})
        for _ in range(2)
    ]
    return Case(admin, {"user": users[0]["id"]}, {"user": users[1]["id"]})


async def _activate(site: Site) -> Case:
    case = await _deactivate(site)
    for request in (case.request, case.other):
        await case.person.call("UserService.DeactivateUser", **request)
    return case


async def _role(site: Site) -> tuple[Person, Json]:
    admin = await site.admin()
    role = {"name": unique("role"), "permissions": ["tasks.read"]}
    return admin, await admin.call("IamAdminService.CreateRole", role=role)


async def _create_role(site: Site) -> Case:
    role = {"name": unique("role"), "permissions": ["tasks.read"]}
    return Case(await site.admin(), {"role": role}, {"role.description": "x"})


async def _update_role(site: Site) -> Case:
    admin, role = await _role(site)
    request = {"role": {"id": role["id"], "description": "one"}, "update_mask": "description"}
    return Case(admin, request, {"role.description": "two"})


async def _delete_role(site: Site) -> Case:
    admin, role = await _role(site)
    return Case(admin, {"role": role["id"], "etag": role["etag"]}, {"etag": "x"})


async def _policy(site: Site) -> tuple[Person, Json]:
    admin = await site.admin()
    policy = {"name": unique("policy"), "effect": "EFFECT_ALLOW", "permissions": ["tasks.read"], "condition": "false"}
    return admin, await admin.call("IamAdminService.CreatePolicy", policy=policy)


async def _create_policy(site: Site) -> Case:
    policy = {"name": unique("policy"), "effect": "EFFECT_ALLOW", "permissions": ["tasks.read"], "condition": "false"}
    return Case(await site.admin(), {"policy": policy}, {"policy.description": "x"})


async def _update_policy(site: Site) -> Case:
    admin, policy = await _policy(site)
    request = {"policy": {"id": policy["id"], "description": "one"}, "update_mask": "description"}
    return Case(admin, request, {"policy.description": "two"})


async def _delete_policy(site: Site) -> Case:
    admin, policy = await _policy(site)
    return Case(admin, {"policy": policy["id"], "etag": policy["etag"]}, {"etag": "x"})


async def _create_assignment(site: Site) -> Case:
    admin, user = await site.admin(), await _create_user(site)
    made = await admin.call("UserService.CreateUser", user.request)
    return Case(admin, {"assignment": {"principal": made["id"], "role": "viewer"}}, {"assignment.role": "member"})


async def _delete_assignment(site: Site) -> Case:
    case = await _create_assignment(site)
    made = await case.person.call("IamAdminService.CreateAssignment", case.request)
    return Case(case.person, {"assignment": made["id"]}, {"assignment": "assignment_other"})


async def _create_project(site: Site) -> Case:
    project = {"key": project_key(), "display_name": "One"}
    return Case(await site.person("Ann"), {"project": project}, {"project.display_name": "Two"})


async def _update_project(site: Site) -> Case:
    ann = await site.person("Ann")
    request = {"project": {"id": (await ann.project())["id"], "description": "one"}, "update_mask": "description"}
    return Case(ann, request, {"project.description": "two"})


async def _add_member(site: Site) -> Case:
    ann, bob = await site.person("Ann"), await site.person("Bob")
    request = {"project": (await ann.project())["id"], "user": bob.id, "role": "viewer"}
    return Case(ann, request, {"role": "editor"})


async def _remove_member(site: Site) -> Case:
    case = await _add_member(site)
    await case.person.call("TaskService.AddProjectMember", case.request)
    request = {name: case.request[name] for name in ("project", "user")}
    return Case(case.person, request, {"user": case.person.id})


async def _create_task(site: Site) -> Case:
    ann = await site.person("Ann")
    return Case(ann, {"task": {"project": (await ann.project())["id"], "title": "One"}}, {"task.title": "Two"})


async def _update_task(site: Site) -> Case:
    ann, task = await _task(site)
    return Case(ann, {"task": {"id": task["id"], "title": "One"}, "update_mask": "title"}, {"task.title": "Two"})


async def _delete_task(site: Site) -> Case:
    ann, task = await _task(site)
    return Case(ann, {"task": task["id"], "etag": task["etag"]}, {"etag": "x"})


async def _restore_task(site: Site) -> Case:
    ann, task = await _task(site)
    await ann.call("TaskService.DeleteTask", task=task["id"])
    return Case(ann, {"task": task["id"]}, {"task": task["key"]})


async def _assign_task(site: Site) -> Case:
    ann, task = await _task(site)
    return Case(ann, {"task": task["id"], "assignees": [ann.id]}, {"task": task["key"]})


async def _unassign_task(site: Site) -> Case:
    ann = await site.person("Ann")
    task = await ann.task((await ann.project())["id"], assignees=[ann.id])
    return Case(ann, {"task": task["id"], "assignees": [ann.id]}, {"task": task["key"]})


async def _transition_task(site: Site) -> Case:
    ann, task = await _task(site)
    return Case(ann, {"task": task["id"], "state": "done"}, {"state": "in_progress"})


async def _import_tasks(site: Site) -> Case:
    ann = await site.person("Ann")
    request = {"project": (await ann.project())["id"], "tasks": [{"title": "One"}]}
    return Case(ann, request, {"tasks": [{"title": "Two"}]})


async def _mark_read(site: Site) -> Case:
    ann, bob = await site.person("Ann"), await site.person("Bob")
    project = await ann.project()
    await ann.add(project["id"], bob)
    task = await ann.task(project["id"], assignees=[bob.id])

    async def look() -> Json | None:
        listed = await bob.call("NotificationService.ListNotifications", filter=f'target == "{task["id"]}"')
        return next(iter(listed["notifications"]), None)

    entry = await eventually(look, "the inbox entry")
    return Case(bob, {"notification": entry["id"]}, {"notification": "notification_other"})


async def _webhook(site: Site) -> tuple[Person, Json]:
    admin = await site.admin()
    hook = {"url": f"{site.hooks.url}/{unique('idem')}", "event_types": ["project.updated"]}
    return admin, await admin.call("NotificationService.CreateWebhook", webhook=hook)


async def _update_webhook(site: Site) -> Case:
    admin, hook = await _webhook(site)
    request = {"webhook": {"id": hook["id"], "description": "one", "disabled": True}}
    return Case(admin, {**request, "update_mask": "description,disabled"}, {"webhook.description": "two"})


async def _delete_webhook(site: Site) -> Case:
    admin, hook = await _webhook(site)
    return Case(admin, {"webhook": hook["id"]}, {"webhook": "webhook_other"})


async def _retry_delivery(site: Site) -> Case:
    admin, zoe = await site.admin(), await site.new_person("Zoe")

    async def look() -> Json | None:
        filter = f'recipient == "{zoe.email}" && state == "delivered"'
        return next(iter((await admin.call("NotificationService.ListDeliveries", filter=filter))["deliveries"]), None)

    delivery = await eventually(look, "the delivery of a welcome mail")
    return Case(admin, {"delivery": delivery["id"]}, {"delivery": "delivery_other"})


CASES: dict[str, Callable[[Site], Awaitable[Case]]] = {
    "AuthenticationService.RequestPasswordReset": _reset,
    "UserService.CreateUser": _create_user,
    "UserService.UpdateUser": _update_user,
    "UserService.DeactivateUser": _deactivate,
    "UserService.ActivateUser": _activate,
    "IamAdminService.CreateRole": _create_role,
    "IamAdminService.UpdateRole": _update_role,
    "IamAdminService.DeleteRole": _delete_role,
    "IamAdminService.CreatePolicy": _create_policy,
    "IamAdminService.UpdatePolicy": _update_policy,
    "IamAdminService.DeletePolicy": _delete_policy,
    "IamAdminService.CreateAssignment": _create_assignment,
    "IamAdminService.DeleteAssignment": _delete_assignment,
    "TaskService.CreateProject": _create_project,
    "TaskService.UpdateProject": _update_project,
    "TaskService.AddProjectMember": _add_member,
    "TaskService.RemoveProjectMember": _remove_member,
    "TaskService.CreateTask": _create_task,
    "TaskService.UpdateTask": _update_task,
    "TaskService.DeleteTask": _delete_task,
    "TaskService.RestoreTask": _restore_task,
    "TaskService.AssignTask": _assign_task,
    "TaskService.UnassignTask": _unassign_task,
    "TaskService.TransitionTask": _transition_task,
    "TaskService.ImportTasks": _import_tasks,
    "NotificationService.MarkNotificationRead": _mark_read,
    "NotificationService.UpdateWebhook": _update_webhook,
    "NotificationService.DeleteWebhook": _delete_webhook,
    "NotificationService.RetryDelivery": _retry_delivery,
}
# Its own answer ends the session that a replay would need.
WITHOUT_REPLAY = {"AuthenticationService.Logout"}


def test_every_call_that_changes_something_is_tried() -> None:
    """GATE-5: a new RPC of this kind needs a case here."""
    changing = {
        method.operation_id
        for method in contract.methods()
        if method.route is not None and not method.read_only and not method.sensitive
    }
    assert changing == set(CASES) | WITHOUT_REPLAY


@pytest.mark.parametrize("operation", CASES)
async def test_the_same_request_is_answered_the_same_and_done_once(site: Site, operation: str) -> None:
    """GATE-5: replay is marked; a changed payload is refused; another key is another request."""
    case = await CASES[operation](site)
    headers = {"idempotency-key": unique("key-")}
    first = await case.person.exchange(operation, case.request, headers)
    assert "idempotency-replayed" not in first.meta
    again = await case.person.exchange(operation, case.request, headers)
    assert again.value == first.value
    assert again.status == first.status
    assert again.meta.get("idempotency-replayed") == "true"
    changed = await case.person.refused(operation, case.other, headers)
    assert (type(changed), changed.reason) == (InvalidArgumentError, "IDEMPOTENCY_KEY_REUSED")
    assert changed.http_status == 422


@pytest.mark.parametrize("operation", CASES)
async def test_duplicates_at_once_have_one_effect(site: Site, operation: str) -> None:
    """GATE-5: one is done; the others are told to wait, or get its answer. The log has each event once."""
    case = await CASES[operation](site)
    request_id = unique("duplicates-")
    headers = {"idempotency-key": unique("key-"), "x-request-id": request_id}
    outcomes = await asyncio.gather(
        *(case.person.call(operation, case.request, headers) for _ in range(6)), return_exceptions=True
    )
    answers = [each for each in outcomes if isinstance(each, dict)]
    refusals = [each for each in outcomes if not isinstance(each, dict)]
    assert answers, refusals
    assert all(answer == answers[0] for answer in answers)
    for refusal in refusals:
        assert isinstance(refusal, AbortedError), refusal
        assert refusal.reason == "IDEMPOTENCY_KEY_IN_FLIGHT"
    assert await case.person.call(operation, case.request, headers) == answers[0]
    # What was done after it has reached the log, so that its own events have, too.
    area = contract.method(operation).area
    marker = await _marker(site, area)
    await site.event(f'request_id == "{marker}"')
    names = set(contract.method(operation).events)
    counts = Counter(record["type"] for record in await site.events(f'request_id == "{request_id}"'))
    assert all(count == 1 for name, count in counts.items() if name in names), counts


async def _marker(site: Site, area: str) -> str:
    """Does something in a service, and answers the id of the request."""
    request_id, headers = unique("marker-"), {}
    headers["x-request-id"] = request_id
    admin = await site.admin()
    if area == "task":
        await admin.call("TaskService.CreateProject", {"project": {"key": project_key(), "display_name": "m"}}, headers)
    elif area == "iam":
        role = {"name": unique("marker"), "permissions": []}
        await admin.call("IamAdminService.CreateRole", {"role": role}, headers)
    elif area == "notification":
        hook = {"webhook": {"url": site.hooks.url + "/marker", "event_types": ["user.deactivated"], "disabled": True}}
        await admin.call("NotificationService.CreateWebhook", hook, headers)
    else:
        user = {"email": f"{unique('m')}@example.com", "display_name": "M"}
        await admin.call("UserService.CreateUser", {"user": user}, headers)
    return request_id


async def test_a_failed_call_leaves_no_record(site: Site) -> None:
    """GATE-5: after an error the same key does what it was meant to do."""
    ann, bob = await site.new_person("Ann"), await site.person("Bob")
    project = await ann.project()
    task, headers = await ann.task(project["id"]), {"idempotency-key": unique("key-")}
    request = {"task": task["id"], "assignees": [bob.id]}
    assert (await ann.refused("TaskService.AssignTask", request, headers)).reason == "ASSIGNEE_NOT_MEMBER"
    await ann.add(project["id"], bob)
    assert (await ann.call("TaskService.AssignTask", request, headers))["assignees"] == [bob.id]


async def test_a_key_is_its_owners_alone(site: Site) -> None:
    """GATE-5: two people with one key disturb each other in nothing."""
    ann, bob = await site.person("Ann"), await site.person("Bob")
    headers = {"idempotency-key": unique("key-")}
    answers = [
        await person.exchange(
            "TaskService.CreateProject", {"project": {"key": project_key(), "display_name": "x"}}, headers
        )
        for person in (ann, bob)
    ]
    assert [answer.value["members"][0]["user"] for answer in answers] == [ann.id, bob.id]


@pytest.mark.parametrize("key", ["x" * 256, "k" * 4000])
async def test_a_malformed_key_is_refused(site: Site, key: str) -> None:
    """GATE-5."""
    ann = await site.person("Ann")
    request = {"project": {"key": project_key(), "display_name": "x"}}
    error = await ann.refused("TaskService.CreateProject", request, {"idempotency-key": key})
    assert (type(error), error.reason) == (InvalidArgumentError, "IDEMPOTENCY_KEY_INVALID")


async def test_a_replay_shows_no_more_than_the_caller_may_see_now(site: Site) -> None:
    """GATE-5, AUTHZ-1: who was taken out of a project gets no answer of before."""
    ann, bob = await site.new_person("Ann"), await site.new_person("Bob")
    project, headers = await ann.project(), {"idempotency-key": unique("key-")}
    await ann.add(project["id"], bob)
    request = {"task": {"project": project["id"], "title": "x"}}
    await bob.call("TaskService.CreateTask", request, headers)
    admin = await site.admin()
    await admin.call("UserService.DeactivateUser", user=bob.id)

    async def out() -> bool:
        try:
            await bob.call("TaskService.CreateTask", request, headers)
        except TaskManError as error:
            return error.code == "UNAUTHENTICATED"
        return False

    assert await eventually(out, "the end of the replay", seconds=5)
