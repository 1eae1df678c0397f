"""Default deny: every RPC × every kind of caller × two organizations, over every wire (AUTHZ-1, IAM-3, GATE-2).

What is expected follows from the contract (who may call, which permission) and from one short table: which kind of
caller has which permission on the things of the organization `default`. Whatever is not in the table must be denied.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import httpx
import pytest
import pytest_asyncio

import taskman_server
from taskman_sdk import contract
from taskman_sdk.errors import TaskManError
from taskman_server.settings import SERVICES
from tests.contract.receivers import HookServer, MailServer
from tests.contract.servers import ClusterProcess
from tests.contract.waiting import eventually
from tests.contract.wires import GrpcWire, LocalWire, RestWire, Wire
from tests.contract.world import ADMIN_EMAIL, ADMIN_PASSWORD, PASSWORD, Person, Site, unique
from tests.parts.postgresql import PostgreSQL
from tests.parts.rabbitmq import RabbitMQ
from tests.parts.redis import RedisServer

Json = dict[str, Any]
SECRET = "lighthouse-keeper"
"""Stands in everything of the organization, and must be seen by nobody of another one."""

READS = {"projects.read", "tasks.read", "tasks.export"}
WORKS = {"tasks.create", "tasks.update", "tasks.assign", "tasks.transition", "tasks.delete", "tasks.import"}
MANAGES = {"projects.update", "projects.manage_members"}
GRANTED: dict[str, set[str]] = {
    "anonymous": set(),
    "deactivated": set(),
    "viewer": {"users.read"},
    "member": {"users.read", "projects.create"},
    "project viewer": {"users.read", "projects.create"} | READS,
    "project editor": {"users.read", "projects.create"} | READS | WORKS,
    "project admin": {"users.read", "projects.create"} | READS | WORKS | MANAGES,
    "admin": {"*"},
}
"""What each kind of caller may do to the project, task, user, role … of `World`."""
EMPTY = {"TaskService.ListProjects", "TaskService.SearchTasks"}
"""Lists over everything: who may read some of it is answered, with what they may read."""
NOT_ADMITTED = {"TOKEN_MISSING", "TOKEN_INVALID", "TOKEN_EXPIRED", "SESSION_ENDED"}
REFUSED = {"PERMISSION_MISSING", "INTERNAL_METHOD"}


@dataclass(slots=True)
class World:
    """An organization with one of everything, and the callers."""

    wires: dict[str, Wire]
    people: dict[str, Person | None]
    things: Json
    before: Json

    def request(self, method: contract.Method) -> Json:
        """A call about the things that changes nothing even where it is allowed."""
        request: Json = json.loads(json.dumps(REQUESTS.get(method.operation_id, {})))
        return _filled(request, self.things)


# `$name` is a thing of the world. Where a call would change something it is stale, doubled or without effect: it then
# fails for another reason than a missing right, after the decision.
REQUESTS: dict[str, Json] = {
    "AuthenticationService.Register": {"email": "$taken", "password": PASSWORD, "display_name": "x"},
    "AuthenticationService.Login": {"email": "nobody@example.com", "password": "x"},
    "AuthenticationService.Refresh": {"refresh_token": "unknown"},
    "AuthenticationService.Logout": {},
    "AuthenticationService.ChangePassword": {"current_password": PASSWORD, "new_password": "short-but-8"},
    "AuthenticationService.RequestPasswordReset": {"email": "nobody@example.com"},
    "AuthenticationService.ResetPassword": {"token": "unknown", "password": PASSWORD},
    "AuthenticationService.SetUp": {"token": "unknown", "email": "nobody@example.com", "password": PASSWORD},
    "AuthenticationService.ValidateToken": {"access_token": "x"},
    "AuthorizationService.Check": {"permission": "tasks.read", "resource": {"id": "$task"}},
    "AuthorizationService.PlanResources": {"permission": "tasks.read"},
    "AuthorizationService.ReportDenial": {"permission": "tasks.read"},
    "UserService.CreateUser": {"user": {"email": "$taken", "display_name": "x"}},
    "UserService.GetUser": {"user": "$user"},
    "UserService.UpdateUser": {"user": {"id": "$user", "locale": "fr", "etag": "stale"}, "update_mask": "locale"},
    "UserService.BatchGetUsers": {"users": ["$user"], "emails": ["$taken"]},
    "UserService.DeactivateUser": {"user": "$gone"},
    "UserService.ActivateUser": {"user": "$user"},
    "UserService.ProvisionUser": {"email": "nobody@example.com"},
    "IamAdminService.CreateRole": {"role": {"name": "$role_name", "permissions": ["tasks.read"]}},
    "IamAdminService.GetRole": {"role": "$role"},
    "IamAdminService.UpdateRole": {
        "role": {"id": "$role", "description": "x", "etag": "stale"}, "update_mask": "description"
    },
    "IamAdminService.DeleteRole": {"role": "$role", "etag": "stale"},
    "IamAdminService.CreatePolicy": {
        "policy": {"name": "$policy_name", "effect": "EFFECT_DENY", "permissions": ["tasks.read"], "condition": "false"}
    },
    "IamAdminService.GetPolicy": {"policy": "$policy"},
    "IamAdminService.UpdatePolicy": {
        "policy": {"id": "$policy", "description": "x", "etag": "stale"}, "update_mask": "description"
    },
    "IamAdminService.DeletePolicy": {"policy": "$policy", "etag": "stale"},
    "IamAdminService.CreateAssignment": {"assignment": {"principal": "$user", "role": "member"}},
    "IamAdminService.GetAssignment": {"assignment": "$assignment"},
    "IamAdminService.DeleteAssignment": {"assignment": "$last_admin"},
    "IamAdminService.ProvisionPrincipal": {"principal": "$user", "organization": "default", "role": "admin"},
    "IamAdminService.SuspendPrincipal": {"principal": "$user", "revision": 1},
    "IamAdminService.ResumePrincipal": {"principal": "$user", "revision": 1},
    "IamAdminService.GetSnapshot": {"organization": "default"},
    "TaskService.CreateProject": {"project": {"key": "$key", "display_name": "x"}},
    "TaskService.GetProject": {"project": "$project"},
    "TaskService.UpdateProject": {
        "project": {"id": "$project", "description": "x", "etag": "stale"}, "update_mask": "description"
    },
    "TaskService.AddProjectMember": {"project": "$project", "user": "$editor", "role": "editor"},
    "TaskService.RemoveProjectMember": {"project": "$project", "user": "$owner"},
    "TaskService.CreateTask": {"task": {"project": "$project", "title": ""}},
    "TaskService.GetTask": {"task": "$task"},
    "TaskService.UpdateTask": {"task": {"id": "$task", "title": "x", "etag": "stale"}, "update_mask": "title"},
    "TaskService.DeleteTask": {"task": "$task", "etag": "stale"},
    "TaskService.RestoreTask": {"task": "$task"},
    "TaskService.AssignTask": {"task": "$task", "assignees": ["$editor"], "etag": "stale"},
    "TaskService.UnassignTask": {"task": "$task", "assignees": ["$editor"], "etag": "stale"},
    "TaskService.TransitionTask": {"task": "$task", "state": "done", "etag": "stale"},
    "TaskService.ListTasks": {"project": "$project"},
    "TaskService.SearchTasks": {"query": SECRET},
    "TaskService.ImportTasks": {"project": "$project", "tasks": [{"title": ""}]},
    "TaskService.ExportTasks": {"project": "$project"},
    "AuditService.GetEvent": {"event": "$event"},
    "NotificationService.MarkNotificationRead": {"notification": "$notification"},
    "NotificationService.CreateWebhook": {"webhook": {"url": "ftp://example.com"}},
    "NotificationService.GetWebhook": {"webhook": "$webhook"},
    "NotificationService.UpdateWebhook": {
        "webhook": {"id": "$webhook", "description": "x", "etag": "stale"}, "update_mask": "description"
    },
    "NotificationService.DeleteWebhook": {"webhook": "$webhook", "etag": "stale"},
    "NotificationService.GetDelivery": {"delivery": "$delivery"},
    "NotificationService.RetryDelivery": {"delivery": "$delivery"},
    "NotificationService.SendMail": {"email": "nobody@example.com", "template": "set_up"},
}  # fmt: skip
METHODS = list(contract.methods())
CALLS = [
    pytest.param(method, wire, id=f"{method.operation_id}-{wire}")
    for method in METHODS
    for wire in ("rest", "grpc", "local", "cluster_rest", "cluster_grpc")
    if not wire.endswith("rest") or method.route is not None  # that internal ones have no path is shown in test_tokens
]
BY_ID = {
    method.operation_id
    for method in METHODS
    if method.permission and method.route is not None and method.route.parameters
} | {"TaskService.CreateTask", "TaskService.ListTasks", "TaskService.ExportTasks", "TaskService.ImportTasks"}


def _filled(value: Any, things: Json) -> Any:
    if isinstance(value, dict):
        return {name: _filled(item, things) for name, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, things) for item in value]
    return things[value[1:]] if isinstance(value, str) and value.startswith("$") else value


def allowed(kind: str, method: contract.Method) -> bool:
    """What the contract and the table say."""
    if method.access == "public":
        return True
    if method.access == "internal" or kind in ("anonymous", "deactivated"):
        return False
    if method.access == "authenticated" or method.operation_id in EMPTY:
        return True
    return any(fnmatchcase(method.permission, granted) for granted in GRANTED[kind])


SETTINGS = {
    "signup": "organization",
    "admin_email": ADMIN_EMAIL,
    "admin_password": ADMIN_PASSWORD,
    "rate_limit": "off",
    "password_hash": "fast",
}


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def embedded_world(mail: MailServer, hooks: HookServer) -> AsyncIterator[World]:
    """One application in which each sign-up has an organization of its own, called in three ways."""
    async with taskman_server.embedded(
        **SETTINGS, smtp_url=mail.url, webhook_allow_private=True, sqlite_synchronous="normal"
    ) as app:
        await app.serve_grpc("127.0.0.1", 0)
        wires: dict[str, Wire] = {
            "rest": RestWire("http://taskman", httpx.ASGITransport(app.gateway)),  # type: ignore[arg-type]
            "grpc": GrpcWire({area: f"127.0.0.1:{port}" for area, port in app.grpc_ports.items()}),
            "local": LocalWire(app.channels),
        }
        site = Site(wires["local"], mail, hooks, app.settings.public_url)
        yield await _populate(site, wires)
        for wire in wires.values():
            await wire.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def cluster_world(
    tmp_path_factory: pytest.TempPathFactory,
    mail: MailServer,
    hooks: HookServer,
    postgresql: PostgreSQL,
    rabbitmq: RabbitMQ,
    redis_server: RedisServer,
) -> AsyncIterator[World]:
    """The same as eight processes."""
    process = ClusterProcess(
        tmp_path_factory.mktemp("matrix"),
        database_url=postgresql.family(SERVICES),
        broker_url=rabbitmq.vhost("matrix"),
        redis_url=redis_server.database(),
        smtp_url=mail.url,
        webhook_allow_private="1",
        log_format="json",
        **SETTINGS,
    )
    try:
        await process.ready()
        wires: dict[str, Wire] = {"cluster_rest": RestWire(process.url), "cluster_grpc": GrpcWire(process.grpc)}
        site = Site(wires["cluster_rest"], mail, hooks, process.url)
        await eventually(site.admin, "the administrator", seconds=60, ignore=(TaskManError,))
        yield await _populate(site, wires)
        for wire in wires.values():
            await wire.close()
    finally:
        assert process.stop() == 0
    assert process.faults() == []


@pytest.fixture
def world(request: pytest.FixtureRequest, wire: str) -> World:
    """Where the wire of the case leads."""
    found = request.getfixturevalue("cluster_world" if wire.startswith("cluster") else "embedded_world")
    assert isinstance(found, World)
    return found


async def _populate(site: Site, wires: dict[str, Wire]) -> World:
    admin = await site.admin()
    viewer = await site.invited(admin, "Viewer", "viewer")
    member, reader, editor, owner, gone = [
        await site.invited(admin, name) for name in ("Mem", "Rea", "Edi", "Own", "Gon")
    ]
    user = await admin.call(
        "UserService.CreateUser", user={"email": f"{unique('target')}@example.com", "display_name": SECRET}
    )
    project = await owner.project(display_name=SECRET)
    await owner.add(project["id"], reader, "viewer")
    await owner.add(project["id"], editor, "editor")
    task = await owner.task(project["id"], SECRET, assignees=[editor.id])
    role = await admin.call(
        "IamAdminService.CreateRole",
        role={"name": unique("keeper-"), "permissions": ["tasks.read"], "description": SECRET},
    )
    policy = await admin.call(
        "IamAdminService.CreatePolicy",
        policy={
            "name": unique("keeper-"), "effect": "EFFECT_ALLOW", "permissions": ["tasks.read"],
            "roles": [role["name"]], "condition": "false", "description": SECRET,
        },
    )  # fmt: skip
    hook = await admin.call(
        "NotificationService.CreateWebhook",
        webhook={"url": f"{site.hooks.url}/{SECRET}", "event_types": ["user.deactivated"], "description": SECRET},
    )
    await admin.call("UserService.DeactivateUser", user=gone.id)

    async def out() -> bool:
        try:
            await gone.call("UserService.GetMe")
        except TaskManError:
            return True
        return False

    await eventually(out, "the end of the deactivated user")
    outsider = await site.new_person("Outsider")
    event = await site.event(f'type == "task.created" && target_id == "{task["id"]}"')

    async def delivered() -> list[Json]:
        listed = await admin.call("NotificationService.ListDeliveries", filter='channel == "webhook"')
        return [each for each in listed["deliveries"] if each["state"] == "delivered"]

    async def told() -> list[Json]:
        found: list[Json] = (await editor.call("NotificationService.ListNotifications"))["notifications"]
        return found

    deliveries = await eventually(delivered, "the webhook's delivery")
    entry = (await eventually(told, "the editor's notification"))[0]
    assignments = (await admin.call("IamAdminService.ListAssignments"))["assignments"]
    things = {
        "project": project["id"], "key": project["key"], "task": task["id"], "user": user["id"], "taken": user["email"],
        "gone": gone.id, "editor": editor.id, "owner": owner.id, "role": role["id"], "role_name": role["name"],
        "policy": policy["id"], "policy_name": policy["name"], "webhook": hook["id"], "event": event["id"],
        "delivery": deliveries[0]["id"], "notification": entry["id"],
        "assignment": next(each["id"] for each in assignments if each["principal"] == member.id),
        "last_admin": next(each["id"] for each in assignments if each["role"] == "admin"),
    }  # fmt: skip
    people: dict[str, Person | None] = {
        "anonymous": None, "viewer": viewer, "member": member, "project viewer": reader, "project editor": editor,
        "project admin": owner, "admin": admin, "deactivated": gone, "outsider": outsider,
    }  # fmt: skip
    return World(wires, people, things, await _state(admin, things))


async def _state(admin: Person, things: Json) -> Json:
    """Everything that a wrongly admitted call could have changed."""
    return {
        "project": await admin.call("TaskService.GetProject", project=things["project"]),
        "tasks": await admin.call("TaskService.ListTasks", project=things["project"], show_deleted=True),
        "user": await admin.call("UserService.GetUser", user=things["user"]),
        "role": await admin.call("IamAdminService.GetRole", role=things["role"]),
        "policy": await admin.call("IamAdminService.GetPolicy", policy=things["policy"]),
        "assignments": await admin.call("IamAdminService.ListAssignments", page_size=1000),
        "webhooks": await admin.call("NotificationService.ListWebhooks"),
    }


async def attempt(world: World, wire: Wire, kind: str, method: contract.Method) -> tuple[str, str]:
    """How a call ends: `admitted`, `unauthenticated`, `denied`, `hidden` or `a fault`; and what was said."""
    person = world.people[kind]
    token = person.token if person is not None else None
    if method.operation_id == "AuthenticationService.Logout" and person is not None and kind != "deactivated":
        token = (await person.site.login(person.email, person.password)).token  # a session that may end
    try:
        answer = await wire.call(method.operation_id, world.request(method), token)
    except TaskManError as error:
        text = f"{error.reason}: {error}"
        if error.code == "UNAUTHENTICATED" and error.reason in NOT_ADMITTED:
            return "unauthenticated", text
        if error.reason in REFUSED:
            return "denied", text
        if error.code == "NOT_FOUND":
            return "hidden", text
        return ("admitted" if error.http_status < 500 else "a fault"), text
    return "admitted", json.dumps(answer, ensure_ascii=False)


@pytest.mark.parametrize(("method", "wire"), CALLS)
async def test_who_may_call(world: World, method: contract.Method, wire: str) -> None:
    """AUTHZ-1: what the table grants is admitted; everything else is denied, or not even there; nothing changes."""
    wrong = []
    for kind in GRANTED:
        outcome, said = await attempt(world, world.wires[wire], kind, method)
        if method.access == "authenticated" and outcome == "hidden":
            outcome = "admitted"  # asked of one's own things, and it is somebody else's
        if allowed(kind, method):
            expected = {"admitted"}
        elif kind in ("anonymous", "deactivated"):
            expected = {"unauthenticated"}
        elif (
            method.permission.partition(".")[0] in ("projects", "tasks") and "project" not in kind and kind != "viewer"
        ):
            expected = {"hidden"}  # a stranger does not learn that it is there
        else:
            expected = {"denied", "hidden"}
        if outcome not in expected:
            wrong.append(f"{kind}: {outcome}, expected {' or '.join(sorted(expected))} ({said[:200]})")
    assert wrong == []
    admin = world.people["admin"]
    assert admin is not None
    assert await _state(admin, world.things) == world.before


@pytest.mark.parametrize(("method", "wire"), CALLS)
async def test_another_organizations_administrator_sees_nothing(
    world: World, method: contract.Method, wire: str
) -> None:
    """AUTHZ-1, USER-1: all rights in one organization are none in another: 404, and no trace in any list."""
    outcome, said = await attempt(world, world.wires[wire], "outsider", method)
    if method.access == "internal":
        assert outcome == "denied", said
    elif method.operation_id in BY_ID:
        assert outcome == "hidden", said
    else:
        assert outcome in ("admitted", "hidden"), said
    assert SECRET not in said, said
    admin = world.people["admin"]
    assert admin is not None
    assert await _state(admin, world.things) == world.before


@pytest.mark.parametrize("wire", ["local", "cluster_rest"])
async def test_another_organizations_user_cannot_be_named(world: World, wire: str) -> None:
    """AUTHZ-1: neither as member, assignee nor holder of a role; a key is free again."""
    editor = world.people["project editor"]
    assert editor is not None
    outsider = await editor.site.new_person("Other")
    project = await outsider.call(
        "TaskService.CreateProject", project={"key": world.things["key"], "display_name": "mine"}
    )
    assert project["id"] != world.things["project"]
    for operation, request in (
        ("TaskService.AddProjectMember", {"project": project["id"], "user": editor.id, "role": "viewer"}),
        ("TaskService.CreateTask", {"task": {"project": project["id"], "title": "x", "assignees": [editor.id]}}),
        ("IamAdminService.CreateAssignment", {"assignment": {"principal": editor.id, "role": "viewer"}}),
    ):
        error = await outsider.refused(operation, request)
        assert error.reason in ("USER_UNKNOWN", "PRINCIPAL_UNKNOWN"), operation
    me = await outsider.call("UserService.GetMe")
    listed = await outsider.call("UserService.ListUsers")
    assert [user["id"] for user in listed["users"]] == [me["id"]]


def test_the_table_knows_every_permission_of_the_contract() -> None:
    """IAM-3: a permission that is renamed or new shows here, not in production."""
    known = set(contract.permissions())
    for kind, granted in GRANTED.items():
        assert granted <= known | {"*"}, kind
    assert set(REQUESTS) <= {method.operation_id for method in METHODS}
