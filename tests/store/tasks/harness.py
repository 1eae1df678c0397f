"""The Task service on a database of its own, called through its pipeline.

Around it stand two answers of its peers: who the users are, and what the policies that every organization begins with
(`services.iam.defaults`) come to for a user's role.
"""

from __future__ import annotations

import csv
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from prometheus_client import CollectorRegistry

from taskman_sdk import codec, contract
from taskman_sdk.proto.taskman.authorization.v1.authorization_pb import (
    PlanKind,
    PlanResourcesRequest,
    PlanResourcesResponse,
    ReportDenialRequest,
    ReportDenialResponse,
)
from taskman_sdk.proto.taskman.task.v1.task_pb import (
    AddProjectMemberRequest,
    CreateProjectRequest,
    CreateTaskRequest,
    ListTasksRequest,
    ListTasksResponse,
    Project,
    Task,
)
from taskman_sdk.proto.taskman.user.v1.user_pb import BatchGetUsersRequest, BatchGetUsersResponse, User
from taskman_server.kit.broker.embedded import EmbeddedBroker
from taskman_server.kit.cel import combine
from taskman_server.kit.clock import ManualClock
from taskman_server.kit.db import Database
from taskman_server.kit.event_tables import OUTBOX
from taskman_server.kit.events import Event
from taskman_server.kit.guard import Guard
from taskman_server.kit.identity import Authenticator
from taskman_server.kit.ids import new_id
from taskman_server.kit.outbox import Outbox
from taskman_server.kit.paging import Pager
from taskman_server.kit.rpc import CallOptions, Channels, Pipeline, Principal, Runtime
from taskman_server.kit.telemetry import Telemetry
from taskman_server.services import tasks
from taskman_server.services.iam.defaults import POLICIES, ROLES
from taskman_server.settings import Settings
from tests.store.databases import Databases, databases_in

M = TypeVar("M", bound="codec.Message[Any]")
MIGRATIONS = Path(tasks.__file__).parent / "migrations"
ORGANIZATION = "org_one"


@dataclass
class Peers:
    """What the Users and the Authorization service answer.

    Attributes:
        users: each user's organization, role and whether they are active.
        policies: conditions for permissions that stand for everything else when set.
        calls: how often each operation was asked.
        denials: the refused attempts that were reported.
    """

    users: dict[str, tuple[str, str, bool]] = field(default_factory=dict)
    policies: dict[str, str] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    denials: list[ReportDenialRequest] = field(default_factory=list)

    def user(self, role: str = "member", organization: str = ORGANIZATION, *, active: bool = True) -> str:
        """A new user's id."""
        name = new_id("user")
        self.users[name] = (organization, role, active)
        return name

    async def unary(
        self, method: contract.Method, request: codec.Message[Any], options: CallOptions
    ) -> codec.Message[Any]:
        """Answers an RPC."""
        self.calls[method.operation_id] = self.calls.get(method.operation_id, 0) + 1
        assert options.caller is not None
        if isinstance(request, BatchGetUsersRequest):
            known = {u: active for u, (org, _, active) in self.users.items() if org == options.caller.organization}
            found = [User(id=u, state="active" if known[u] else "deactivated") for u in request.users if u in known]
            return BatchGetUsersResponse(users=found)
        if isinstance(request, ReportDenialRequest):
            self.denials.append(request)
            return ReportDenialResponse()
        assert isinstance(request, PlanResourcesRequest), method.operation_id
        condition = self._condition(request.principal, request.permission)
        kind = {"true": PlanKind.ALWAYS_ALLOWED, "false": PlanKind.ALWAYS_DENIED}.get(condition, PlanKind.CONDITIONAL)
        return PlanResourcesResponse(
            kind=kind,
            condition=condition if kind is PlanKind.CONDITIONAL else "",
            roles=[self._role(request.principal)],
        )

    def stream(
        self, method: contract.Method, request: codec.Message[Any], options: CallOptions
    ) -> AsyncIterator[codec.Message[Any]]:
        """No peer streams."""
        raise AssertionError(method.operation_id)

    def _role(self, user: str) -> str:
        return self.users[user][1]

    def _condition(self, user: str, permission: str) -> str:
        if permission in self.policies:
            return self.policies[permission]
        role = self._role(user)
        (permissions,) = (list(r.permissions) for r in ROLES if r.name == role)
        if "*" in permissions or permission in permissions:
            return "true"
        return combine(
            [p.condition for p in POLICIES if permission in p.permissions and (not p.roles or role in p.roles)], []
        )


@dataclass
class House:
    """The service, ready to be called."""

    peers: Peers
    clock: ManualClock
    db: Database
    runtime: Runtime
    pipeline: Pipeline

    async def call(self, user: str, operation: str, request: codec.Message[Any], answer: type[M], **meta: str) -> M:
        """Calls an RPC of the Task service as a user."""
        reply = await self.pipeline.unary(
            contract.method(f"TaskService.{operation}"), request, self.options(user, **meta)
        )
        assert isinstance(reply, answer)
        return reply

    def options(self, user: str, **meta: str) -> CallOptions:
        """A user's call."""
        metadata = {name.replace("_", "-"): value for name, value in meta.items()}
        return CallOptions(metadata=metadata, caller=Principal(user, "user", self.peers.users[user][0]))

    async def project(self, owner: str, key: str = "WEB", visibility: str = "", **members: str) -> Project:
        """A project with further members by their role: `editor=…`."""
        made = await self.call(
            owner,
            "CreateProject",
            CreateProjectRequest(project=Project(key=key, display_name=f"The {key}", visibility=visibility)),
            Project,
        )
        for role, user in members.items():
            request = AddProjectMemberRequest(project=key, user=user, role=role)
            made = await self.call(owner, "AddProjectMember", request, Project)
        return made

    async def task(self, user: str, title: str = "Paint it", project: str = "WEB", **fields: Any) -> Task:
        """A new task."""
        request = CreateTaskRequest(task=Task(project=project, title=title, **fields))
        return await self.call(user, "CreateTask", request, Task)

    async def pages(self, user: str, size: int = 0, **request: Any) -> list[Task]:
        """All pages of ListTasks."""
        found: list[Task] = []
        token = ""
        while True:
            asked = ListTasksRequest(page_size=size, page_token=token, **request)
            answer = await self.call(user, "ListTasks", asked, ListTasksResponse)
            found += answer.tasks
            token = answer.next_page_token
            if not token:
                return found
            assert len(answer.tasks) == size

    async def events(self) -> list[Event]:
        """What was put into the outbox since the last time, in order."""
        rows = await self.db.fetch_all(sa.select(OUTBOX.c.sequence, OUTBOX.c.envelope).order_by(OUTBOX.c.sequence))
        await self.db.execute(sa.delete(OUTBOX))
        return [Event.from_json(row.envelope) for row in rows]

    async def rows(self, sql: str) -> list[Any]:
        """Rows of a query of the test's own."""
        return [tuple(row) for row in await self.db.fetch_all(sa.text(sql))]


@asynccontextmanager
async def open_house(
    where: Path | Databases, *, peers: Peers | None = None, clock: ManualClock | None = None, broker: str = "broker.db"
) -> AsyncIterator[House]:
    """The service on databases, or on files in a folder.

    A second one on the same databases, with the peers and the clock of the first and a broker of another name, is
    another process of the service.
    """
    databases = databases_in(where)
    db = await databases.open(tasks.SERVICE)
    folder = databases.folder
    opened = await EmbeddedBroker.open(folder / broker)
    peers, clock = peers or Peers(), clock or ManualClock()
    channels = Channels({"user": peers, "authorization": peers})
    telemetry = Telemetry("tasks", CollectorRegistry())
    runtime = Runtime(
        name="tasks",
        settings=Settings(data=folder),
        db=db,
        outbox=Outbox(lambda: None),
        channels=channels,
        authenticator=Authenticator(channels, "tasks", clock),
        guard=Guard(channels, "tasks", telemetry),
        pager=Pager(b"sixteen bytes or more"),
        clock=clock,
        telemetry=telemetry,
    )
    pipeline = Pipeline(tasks.SERVICE.contract, tasks.SERVICE.build(runtime).handlers, runtime)
    try:
        yield House(peers, clock, db, runtime, pipeline)
    finally:
        await db.close()
        await opened.close()


def shared_rows() -> Iterator[dict[str, str]]:
    """The real work items of the shared data, see its README."""
    root = Path(__file__).resolve().parents[3]
    folder = Path(os.environ.get("TASKMAN_SHARED_DATA") or root.parent / "shared" / "data")
    with (folder / "tasks-5k.csv").open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)
