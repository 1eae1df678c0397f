"""A NUL character in a request is the caller's fault, whatever database is behind it (GATE-2)."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import pytest

from taskman_sdk import contract
from taskman_sdk.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    TaskManError,
    UnauthenticatedError,
)
from taskman_sdk.proto.taskman.authentication.v1.authentication_pb import LoginRequest, ResetPasswordRequest
from taskman_sdk.proto.taskman.iam.v1.iam_pb import (
    CreatePolicyRequest,
    CreateRoleRequest,
    Effect,
    GetRoleRequest,
    Policy,
    Role,
)
from taskman_sdk.proto.taskman.notification.v1.notification_pb import CreateWebhookRequest, GetWebhookRequest, Webhook
from taskman_sdk.proto.taskman.task.v1.task_pb import (
    CreateTaskRequest,
    GetTaskRequest,
    ListTasksRequest,
    Project,
    RemoveProjectMemberRequest,
    SearchTasksRequest,
    Task,
    TransitionTaskRequest,
    UpdateProjectRequest,
    UpdateTaskRequest,
)
from taskman_sdk.proto.taskman.user.v1.user_pb import BatchGetUsersRequest, CreateUserRequest, GetUserRequest, User
from taskman_server.kit.rpc import CallOptions, Principal, service_principal
from tests.store.authentication.harness import open_house
from tests.store.databases import Databases
from tests.store.tasks.harness import open_house as open_tasks

TESTS = service_principal("tests", "default")
ELSEWHERE: list[tuple[str, Any, Principal | None]] = [
    ("AuthenticationService.Login", LoginRequest(email="ann\0@example.com", password="x"), None),
    ("AuthenticationService.Login", LoginRequest(email="ann@example.com", password="x\0"), None),
    ("AuthenticationService.ResetPassword", ResetPasswordRequest(token="tmx_\0", password="a-long-heron-7"), None),
    ("UserService.GetUser", GetUserRequest(user="user_\0"), TESTS),
    ("UserService.BatchGetUsers", BatchGetUsersRequest(users=["user_\0"], emails=["a\0@example.com"]), TESTS),
    ("UserService.CreateUser", CreateUserRequest(user=User(email="b@example.com", display_name="B\0")), TESTS),
    ("IamAdminService.GetRole", GetRoleRequest(role="role_\0"), TESTS),
    ("IamAdminService.CreateRole", CreateRoleRequest(role=Role(name="r", description="\0")), TESTS),
    ("IamAdminService.CreateRole", CreateRoleRequest(role=Role(name="r", permissions=["\0"])), TESTS),
    (
        "IamAdminService.CreatePolicy",
        CreatePolicyRequest(
            policy=Policy(name="p", effect=Effect.ALLOW, permissions=["tasks.read"], description="\0", roles=["\0"])
        ),
        TESTS,
    ),
    ("NotificationService.GetWebhook", GetWebhookRequest(webhook="webhook_\0"), TESTS),
    (
        "NotificationService.CreateWebhook",
        CreateWebhookRequest(webhook=Webhook(url="https://example.com/\0", description="\0", event_types=["\0"])),
        TESTS,
    ),
    (
        "NotificationService.CreateWebhook",
        CreateWebhookRequest(webhook=Webhook(url="https://example.com/", description="\0")),
        TESTS,
    ),
]
ON_TASKS: list[tuple[str, Any]] = [
    ("GetTask", GetTaskRequest(task="WEB-1\0")),
    ("ListTasks", ListTasksRequest(project="WEB\0")),
    ("ListTasks", ListTasksRequest(filter='title == "\0"')),
    ("SearchTasks", SearchTasksRequest(query="paint\0it")),
    ("CreateTask", CreateTaskRequest(task=Task(project="WEB", title="\0"))),
    ("CreateTask", CreateTaskRequest(task=Task(project="WEB", title="T", description="a\0b"))),
    ("CreateTask", CreateTaskRequest(task=Task(project="WEB", title="T", labels=["a\0b"]))),
    ("CreateTask", CreateTaskRequest(task=Task(project="WEB", title="T", external_id="a\0b"))),
    ("CreateTask", CreateTaskRequest(task=Task(project="WEB", title="T", state="todo\0"))),
    ("CreateTask", CreateTaskRequest(task=Task(project="WEB", title="T", assignees=["\0"]))),
    ("UpdateTask", UpdateTaskRequest(task=Task(id="WEB-1", title="T\0"))),
    ("TransitionTask", TransitionTaskRequest(task="WEB-1", state="done\0")),
    ("UpdateProject", UpdateProjectRequest(project=Project(id="WEB", description="\0"))),
    ("RemoveProjectMember", RemoveProjectMemberRequest(project="WEB", user="\0")),
]
FAULTS = (InvalidArgumentError, NotFoundError, UnauthenticatedError)
REFUSED = (*FAULTS, FailedPreconditionError)


async def fault(call: Awaitable[Any]) -> TaskManError | None:
    """What a call is refused with; None when it is not."""
    try:
        await call
    except TaskManError as error:
        return error
    return None


async def test_a_nul_is_refused_or_found_nowhere_in_every_service(databases: Databases) -> None:
    """GATE-2: 400, 401 or 404; where SQLite keeps one, as ever, PostgreSQL says that it does not."""
    async with open_house(databases, events=False) as house:
        for operation, request, caller in ELSEWHERE:
            options = CallOptions(caller=caller)
            error = await fault(house.channels.unary(contract.method(operation), request, options))
            assert error is None or isinstance(error, FAULTS), (operation, error)


async def test_a_nul_is_refused_or_found_nowhere_in_tasks(databases: Databases) -> None:
    """GATE-2: nothing of a task or project holds one; to a search it is a space."""
    async with open_tasks(databases) as house:
        ann = house.peers.user()
        await house.project(ann)
        await house.task(ann)
        for operation, request in ON_TASKS:
            method = contract.method(f"TaskService.{operation}")
            error = await fault(house.pipeline.unary(method, request, house.options(ann)))
            assert error is None if operation == "SearchTasks" else isinstance(error, REFUSED), (operation, error)


@pytest.mark.parametrize("databases", ["postgresql"], indirect=True)
async def test_the_error_says_what_to_remove(databases: Databases) -> None:
    """GATE-2."""
    async with open_tasks(databases) as house:
        ann = house.peers.user()
        with pytest.raises(InvalidArgumentError, match="NUL character") as caught:
            await house.call(ann, "GetTask", GetTaskRequest(task="WEB-1\0"), Task)
        assert caught.value.reason == "TEXT_INVALID"
