"""The two clients: alike, closing cleanly, safe between threads, loops and forks (SDK-1, SDK-7)."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

import taskman_sdk
from taskman_sdk import AsyncTaskMan, LocalTransport, TaskMan, codec, contract
from taskman_sdk._sync import Resources
from taskman_sdk.errors import NotFoundError
from taskman_sdk.proto.taskman.task.v1.task_pb import ExportTasksResponse, ListTasksRequest, ListTasksResponse, Task
from taskman_sdk.resources import AsyncResources
from tests.unit.sdk.stage import Message, Seen, Stage, _Channel, mock, reach


def public(kind: type) -> dict[str, Any]:
    return {name: value for name, value in inspect.getmembers(kind) if not name.startswith("_") and callable(value)}


def resources(group: type) -> list[str]:
    return sorted(name for name in vars(group) if not name.startswith("_"))


async def test_every_public_rpc_is_a_verb_of_some_resource() -> None:
    """SDK-1: called with nothing but its path parameters and needs, each reaches its own RPC."""
    called: set[str] = set()

    class Stop(Exception):
        pass

    class Recorder(AsyncTaskMan):
        async def call(self, method: contract.Method, request: Message, **options: Any) -> Message:
            called.add(method.operation_id)
            raise Stop

        async def stream(self, method: contract.Method, request: Message, **options: Any) -> AsyncIterator[Message]:
            called.add(method.operation_id)
            raise Stop
            yield request

    client = Recorder(transport=LocalTransport(_Channel(Stage())))
    for name in resources(AsyncResources):
        resource = getattr(client, name)
        for verb in public(type(resource)):
            function = getattr(resource, verb)
            parameters = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
            needed: dict[str, Any] = {p.name: ["x"] if "Sequence[str]" in p.annotation else "x" for p in parameters}
            if verb == "import_":
                needed["tasks"] = []
            answer = function(**needed)
            with pytest.raises(Stop):
                await (anext(aiter(answer)) if hasattr(answer, "__aiter__") else answer)
    assert called == {method.operation_id for method in contract.methods() if method.route is not None}


def test_both_clients_have_the_same_verbs_with_the_same_arguments() -> None:
    """SDK-1"""
    assert resources(Resources) == resources(AsyncResources)
    aio, sync = AsyncTaskMan("http://x"), TaskMan("http://x")
    for name in resources(AsyncResources):
        mine, twin = type(getattr(aio, name)), type(getattr(sync, name))
        assert public(mine).keys() == public(twin).keys()
        for verb, function in public(mine).items():
            assert inspect.signature(function).parameters == inspect.signature(public(twin)[verb]).parameters
            assert inspect.getdoc(function) == inspect.getdoc(public(twin)[verb])
            assert {"idempotency_key", "timeout", "extra_headers"} <= inspect.signature(function).parameters.keys()
    sync.close()


def test_the_public_names_are_these() -> None:
    """SDK-1: what `taskman_sdk` exports is meant; all of it loads, and the type checker sees the same."""
    for name in taskman_sdk.__all__:
        assert getattr(taskman_sdk, name) is not None
    source = ast.parse(inspect.getsource(taskman_sdk))
    (block,) = [node for node in source.body if isinstance(node, ast.If)]
    typed = {
        alias.asname or alias.name
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed | {"__version__"} == set(taskman_sdk.__all__)
    errors = {"TaskManError", "FieldViolation", *(kind.__name__ for kind in taskman_sdk.TaskManError.__subclasses__())}
    assert errors <= set(taskman_sdk.__all__)
    with pytest.raises(AttributeError):
        taskman_sdk.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        ("import taskman_sdk", {"grpc", "httpx", "rich", "keyring", "pydantic", "click", "tenacity", "pybreaker"}),
        ("import taskman_sdk.contract", {"grpc", "httpx", "rich", "keyring", "pydantic", "click"}),
        ("from taskman_sdk import TaskMan; TaskMan('http://x').tasks", {"grpc", "keyring", "tenacity", "pybreaker"}),
        ("import taskman_sdk.cli", {"grpc", "httpx", "rich", "keyring", "pydantic", "dateutil"}),
    ],
)
def test_loading_brings_nothing_that_is_not_needed_yet(code: str, forbidden: set[str]) -> None:
    """SDK-1, CLI-1: the start of every program and of every `taskman --help` pays for it."""
    script = f"import sys; {code}; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & forbidden == set()


async def pages_of_two(seen: Seen) -> Message:
    assert isinstance(seen.request, ListTasksRequest)
    start = int(seen.request.page_token or 0)
    assert seen.request.filter == "x"
    following = str(start + 2) if start + 2 < 5 else ""
    return ListTasksResponse(
        tasks=[Task(key=f"WEB-{n}") for n in range(start, min(start + 2, 5))], next_page_token=following
    )


async def test_a_list_is_walked_page_by_page_as_needed() -> None:
    """SDK-5"""
    stage = Stage(pages_of_two)
    async with reach(stage, "grpc") as transport, AsyncTaskMan(transport=transport) as client:
        listed = client.tasks.list(filter="x", page_size=2)
        assert stage.seen == []
        assert [task.key async for task in listed] == ["WEB-0", "WEB-1", "WEB-2", "WEB-3", "WEB-4"]
        assert [len(page.tasks) async for page in listed.pages()] == [2, 2, 1]
        assert len(await listed.to_list(3)) == 3
        before = len(stage.seen)
        assert (await listed.first_page()).next_page_token == "2"
        assert len(stage.seen) == before + 1


class Handler(BaseHTTPRequestHandler):
    """Enough of a server for the sync client: tasks by key, a list, a stream."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.startswith("/v1/tasks:export"):
            pieces = [codec.to_json(ExportTasksResponse(task=Task(key=f"WEB-{n}"))) for n in range(3)]
            self.reply(200, b"\n".join(pieces))
        elif self.path.startswith("/v1/tasks?"):
            last = "page_token" in self.path
            page = ListTasksResponse(tasks=[Task(key="B" if last else "A")], next_page_token="" if last else "t")
            self.reply(200, codec.to_json(page))
        elif self.path.endswith("/missing"):
            self.reply(404, b'{"code": "NOT_FOUND", "detail": "no"}')
        else:
            self.reply(200, codec.to_json(Task(key=self.path.rpartition("/")[2])))

    def reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def test_the_sync_client_does_what_the_async_one_does(url: str) -> None:
    """SDK-1"""
    with TaskMan(url) as client:
        assert client.tasks.get("WEB-1").key == "WEB-1"
        assert [task.key for task in client.tasks.list(page_size=1)] == ["A", "B"]
        assert [len(page.tasks) for page in client.tasks.list(page_size=1).pages()] == [1, 1]
        assert client.tasks.list(page_size=1).first_page().next_page_token == "t"
        assert [piece.task.key for piece in client.tasks.export() if piece.task] == ["WEB-0", "WEB-1", "WEB-2"]
        for piece in client.tasks.export():
            assert piece.task is not None
            break
        with pytest.raises(NotFoundError):
            client.tasks.get("missing")


def test_many_threads_share_a_sync_client(url: str) -> None:
    """SDK-7"""
    with TaskMan(url) as client, ThreadPoolExecutor(16) as pool:
        keys = [f"WEB-{n}" for n in range(200)]
        assert [task.key for task in pool.map(client.tasks.get, keys)] == keys


async def test_a_sync_client_works_where_a_loop_runs_already(url: str) -> None:
    """SDK-7: as in a notebook's cell."""
    with TaskMan(url) as client:
        assert client.tasks.get("WEB-1").key == "WEB-1"


def test_an_async_client_outlives_its_event_loop(url: str) -> None:
    """SDK-7: `asyncio.run` twice with one client."""
    client = AsyncTaskMan(url)

    async def get() -> str:
        return (await client.tasks.get("WEB-1")).key

    assert [asyncio.run(get()), asyncio.run(get())] == ["WEB-1", "WEB-1"]


def test_closing_ends_the_thread_and_refuses_further_calls(url: str) -> None:
    """SDK-7"""
    before = {thread.ident for thread in threading.enumerate()}
    client = TaskMan(url)
    client.tasks.get("WEB-1")
    started = {thread for thread in threading.enumerate() if thread.ident not in before and thread.name == "taskman"}
    assert len(started) == 1
    client.close()
    client.close()
    assert not any(thread.is_alive() for thread in started)
    with pytest.raises(RuntimeError, match="closed"):
        client.tasks.get("WEB-1")


def test_a_forgotten_client_leaves_no_thread_and_no_noise(url: str) -> None:
    """SDK-7: a script that never calls close ends at once and in silence."""
    script = f"from taskman_sdk import TaskMan; print(TaskMan({url!r}).tasks.get('WEB-1').key)"
    done = subprocess.run([sys.executable, "-X", "dev", "-c", script], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, "WEB-1\n")
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_client_goes_on_in_a_forked_child_with_connections_of_its_own(url: str, tmp_path: Path) -> None:
    """SDK-7"""
    script = f"""
import os, sys
from taskman_sdk import TaskMan
client = TaskMan({url!r})
print(client.tasks.get("parent").key, flush=True)
child = os.fork()
if child == 0:
    print(client.tasks.get("child").key, flush=True)
    client.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print(client.tasks.get("again").key, flush=True)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert (done.stdout.split(), done.returncode) == (["parent", "child", "again"], 0), done.stderr


async def test_ones_own_http_client_is_used_and_left_open() -> None:
    """SDK-5"""
    stage = Stage(lambda seen: _task())
    async with httpx.AsyncClient(transport=mock(stage), headers={"x-proxy": "yes"}) as http:
        async with AsyncTaskMan("http://tasks.test/prefix", http_client=http):
            pass
        assert not http.is_closed


async def _task() -> Message:
    return Task()


async def test_what_the_caller_adds_to_the_headers_wins() -> None:
    """SDK-5"""
    stage = Stage(lambda seen: _task())
    async with reach(stage, "local") as transport, AsyncTaskMan(token="t", transport=transport) as client:
        await client.tasks.create(
            title="x",
            idempotency_key="mine",
            extra_headers={"X-Request-Id": "req_mine", "Authorization": "Bearer other"},
        )
    metadata = stage.seen[0].metadata
    assert [metadata[name] for name in ("idempotency-key", "x-request-id", "authorization")] == [
        "mine", "req_mine", "Bearer other",
    ]  # fmt: skip


def test_environment_and_arguments_say_where_and_who(monkeypatch: pytest.MonkeyPatch) -> None:
    """SDK-1: arguments win; a token of the environment stays away from a transport of one's own."""
    monkeypatch.setenv("TASKMAN_URL", "http://env.test")
    monkeypatch.setenv("TASKMAN_TOKEN", "env")
    assert (AsyncTaskMan().base_url, AsyncTaskMan().credentials.access_token) == ("http://env.test", "env")
    given = AsyncTaskMan("http://arg.test", "arg")
    assert (given.base_url, given.credentials.access_token) == ("http://arg.test", "arg")
    assert AsyncTaskMan(transport=LocalTransport(_Channel(Stage()))).credentials.access_token == ""
