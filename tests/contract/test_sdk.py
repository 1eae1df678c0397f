"""The public clients against the real server: alike over REST, gRPC and in process, sync and async (SDK-1, SDK-2)."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import pytest_asyncio

from taskman_sdk import (
    AbortedError,
    AsyncTaskMan,
    GrpcTransport,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    TaskMan,
    TaskManError,
    UnauthenticatedError,
)
from tests.contract.world import PASSWORD, Person, Site, project_key, unique

if TYPE_CHECKING:
    from taskman_server.app import Application

Open = Callable[[Person | None], Any]


@dataclass(frozen=True, slots=True)
class Stage:
    """Where clients of a kind go."""

    kind: str
    site: Site
    target: Any

    @asynccontextmanager
    async def opened(self, person: Person | None) -> AsyncIterator[Any]:
        """A client, signed in as somebody."""
        token = person.token if person is not None else None
        if self.kind == "local":
            client = self.target.client(token)
        elif self.kind == "grpc":
            client = AsyncTaskMan(token=token, transport=GrpcTransport(targets=self.target.grpc))
        elif self.kind == "cluster grpc":
            client = AsyncTaskMan(f"grpc://127.0.0.1:{self.target.edge}?ports=one", token)
        else:
            client = AsyncTaskMan(self.site.url, token)
        async with client:
            yield client


@pytest.fixture
def stage(request: pytest.FixtureRequest, kind: str) -> Stage:
    """The server that the kind of client of a case is for."""
    if kind == "local":
        return Stage(kind, request.getfixturevalue("local"), request.getfixturevalue("application"))
    if kind.startswith("cluster"):
        return Stage(kind, request.getfixturevalue("cluster_rest"), request.getfixturevalue("cluster"))
    return Stage(kind, request.getfixturevalue("rest"), request.getfixturevalue("server"))


class Twin:
    """A sync client whose calls are awaited: each runs in a thread, as a program's own would."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not callable(found):
            return Twin(found)

        def call(*args: Any, **fields: Any) -> Any:
            if inspect.signature(found).return_annotation.__str__().startswith(("Pager", "Iterator")):
                return _Walk(lambda: found(*args, **fields))
            return asyncio.to_thread(found, *args, **fields)

        return call


class _Walk:
    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    async def __aiter__(self) -> AsyncIterator[Any]:
        for each in await asyncio.to_thread(lambda: list(self._make())):
            yield each


KINDS = ["http", "grpc", "local", "sync http", "sync grpc", "cluster http", "cluster grpc"]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of client."""
    return str(request.param)


@pytest_asyncio.fixture(loop_scope="session")
async def client(stage: Stage) -> AsyncIterator[tuple[Any, Person]]:
    """A client of each kind, signed in as somebody new."""
    person = await stage.site.new_person("Ann")
    if stage.kind.startswith("sync"):
        transport = GrpcTransport(targets=stage.target.grpc) if stage.kind == "sync grpc" else None
        url = None if transport else stage.site.url
        sync = await asyncio.to_thread(lambda: TaskMan(url, person.token, transport=transport))
        yield Twin(sync), person
        await asyncio.to_thread(sync.close)
        return
    async with stage.opened(person) as found:
        yield found, person


async def refusal(call: Awaitable[Any]) -> tuple[str, str, tuple[str, ...]]:
    """Class, reason and fields of an error."""
    with pytest.raises(TaskManError) as caught:
        await call
    assert caught.value.request_id
    return type(caught.value).__name__, caught.value.reason, tuple(v.field for v in caught.value.field_violations)


async def test_a_working_day(client: tuple[Any, Person]) -> None:
    """SDK-1, SDK-2: the same calls have the same answers and errors, whichever way they go."""
    taskman, ann = client
    me = await taskman.users.get_me()
    assert (me.id, me.email) == (ann.id, ann.email)

    key = project_key()
    project = await taskman.projects.create(key=key, display_name="Website")
    assert [(member.user, member.role) for member in project.members] == [(ann.id, "admin")]
    task = await taskman.tasks.create(project=key, title="Fix the login page", labels=["fix"], priority="high")
    assert (task.key, task.state, task.project) == (f"{key}-1", "todo", project.id)
    assert task.create_time is not None
    assert task.create_time.tzinfo is not None
    assert await taskman.tasks.get(task.key) == task

    changed = await taskman.tasks.update(task.id, title="Fix it", etag=task.etag)
    assert (changed.title, changed.labels, changed.priority) == ("Fix it", ["fix"], "high")
    assert await refusal(taskman.tasks.update(task.id, title="Lost", etag=task.etag)) == (
        AbortedError.__name__, "ETAG_MISMATCH", (),
    )  # fmt: skip
    assert (await taskman.tasks.assign(task.key, assignees=[ann.id])).assignees == [ann.id]
    done = await taskman.tasks.transition(task.key, state="done")
    assert done.complete_time is not None

    for number in range(5):
        await taskman.tasks.create(project=key, title=f"t{number}")
    found = [each.title async for each in taskman.tasks.list(project=key, filter='state == "todo"', page_size=2)]
    assert found == [f"t{number}" for number in range(5)]
    assert [each.key async for each in taskman.tasks.search(query="login", filter=f'project == "{project.id}"')] == []
    exported = [each.task.title async for each in taskman.tasks.export(project=key)]
    assert exported == ["Fix it", *found]

    assert await refusal(taskman.tasks.get("NOPE-1")) == (NotFoundError.__name__, "TASK_NOT_FOUND", ())
    assert await refusal(taskman.tasks.create(project=key, title="")) == (
        InvalidArgumentError.__name__, "FIELD_INVALID", ("task.title",),
    )  # fmt: skip
    assert await refusal(taskman.roles.create(name="x")) == (PermissionDeniedError.__name__, "PERMISSION_MISSING", ())
    deleted = await taskman.tasks.delete(task.id)
    assert deleted.delete_time is not None
    assert (await taskman.tasks.restore(task.id)).delete_time is None


@pytest.mark.parametrize("kind", ["http", "grpc", "local", "cluster http", "cluster grpc"])
async def test_a_client_signs_in_and_stays_signed_in(stage: Stage) -> None:
    """SDK-6, AUTHN-2: the tokens of a login are used and traded in without a word."""
    person = await stage.site.new_person("Ann")
    async with stage.opened(None) as taskman:
        error = await refusal(taskman.users.get_me())
        assert error[:2] == (UnauthenticatedError.__name__, "TOKEN_MISSING")
        await taskman.auth.login(email=person.email, password=PASSWORD)
        assert (await taskman.users.get_me()).id == person.id
        first = taskman.credentials.refresh_token
        taskman.credentials.store("no.good.token", first, 900.0)
        assert (await taskman.users.get_me()).id == person.id
        assert taskman.credentials.refresh_token != first
        await taskman.auth.logout()
        assert (await refusal(taskman.users.get_me()))[0] == UnauthenticatedError.__name__


@pytest.mark.parametrize("kind", ["http", "grpc", "local", "cluster http", "cluster grpc"])
async def test_a_call_keeps_its_idempotency_key(stage: Stage) -> None:
    """SDK-3, GATE-5: given by hand, twice: one effect."""
    person = await stage.site.new_person("Ann")
    async with stage.opened(person) as taskman:
        project = await taskman.projects.create(key=project_key(), display_name="x")
        key = unique("sdk-")
        first = await taskman.tasks.create(project=project.id, title="once", idempotency_key=key)
        assert await taskman.tasks.create(project=project.id, title="once", idempotency_key=key) == first
        assert [each.id async for each in taskman.tasks.list(project=project.id)] == [first.id]


async def test_one_task_read_in_three_ways_is_one_task(application: Application, local: Site) -> None:
    """SDK-2: REST, gRPC and in process give equal models of one server's data, errors included."""
    ann = await local.new_person("Ann")
    project = await ann.project(description="ß 日本", visibility="organization")
    made = await ann.task(project["id"], "Same", labels=["a", "b"], due_time="2031-01-01T00:00:00.123456Z")
    if not application.grpc_ports:
        await application.serve_grpc("127.0.0.1", 0)
    targets = {area: f"127.0.0.1:{port}" for area, port in application.grpc_ports.items()}
    asgi = httpx.AsyncClient(transport=httpx.ASGITransport(application.gateway))  # type: ignore[arg-type]
    clients = [
        AsyncTaskMan("http://taskman", ann.token, http_client=asgi),
        AsyncTaskMan(token=ann.token, transport=GrpcTransport(targets=targets)),
        application.client(ann.token),
    ]
    try:
        tasks = [await client.tasks.get(made["key"]) for client in clients]
        projects = [await client.projects.get(project["key"]) for client in clients]
        pages = [
            await client.tasks.list(project=project["id"], include_total_size=True).first_page() for client in clients
        ]
        errors = [await refusal(client.tasks.list(filter="state ==").first_page()) for client in clients]
        details = []
        for client in clients:
            with pytest.raises(InvalidArgumentError) as caught:
                await client.tasks.create(project=project["id"], title="x" * 501)
            details.append((str(caught.value), caught.value.metadata, caught.value.field_violations))
    finally:
        for client in clients:
            await client.close()
        await asgi.aclose()
    for answers in (tasks, projects, pages, errors, details):
        assert answers[0] == answers[1] == answers[2]
