"""REST, gRPC and in process: a caller cannot tell them apart (SDK-2)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import httpx
import pytest

from taskman_sdk import contract
from taskman_sdk.client import AsyncTaskMan
from taskman_sdk.errors import (
    DeadlineExceededError,
    FieldViolation,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    TaskManError,
    UnavailableError,
    UnknownError,
)
from taskman_sdk.proto.taskman.task.v1.task_pb import (
    ExportTasksRequest,
    ExportTasksResponse,
    GetTaskRequest,
    ListTasksRequest,
    Task,
    UpdateTaskRequest,
)
from taskman_sdk.proto.taskman.user.v1.user_pb import BatchGetUsersRequest
from taskman_sdk.transports import Transport, open_transport
from taskman_sdk.transports._rest import rest_request
from taskman_sdk.transports.http import HttpTransport
from tests.unit.sdk.stage import TRANSPORTS, Message, Seen, Stage, reach

GET = contract.method("TaskService.GetTask")
EXPORT = contract.method("TaskService.ExportTasks")
ERRORS = [
    NotFoundError("There is no task WEB-1.", reason="TASK_NOT_FOUND", metadata={"task": "WEB-1"}, request_id="req_1"),
    InvalidArgumentError(
        "title is too long.", field_violations=[FieldViolation("task.title", "at most 500", "string.max_len")]
    ),
    ResourceExhaustedError("Slow down.", reason="RATE_LIMITED", retry_after=2.5),
    UnavailableError("Its database is gone.", reason="DATABASE"),
]


async def answer_task(seen: Seen) -> Message:
    return Task(id="task_1", key="WEB-1", title="Ünïcode\u2028line")


@pytest.mark.parametrize("kind", TRANSPORTS)
async def test_an_answer_comes_whole(kind: str) -> None:
    """SDK-2"""
    async with reach(Stage(answer_task), kind) as transport:
        found = await transport.unary(GET, GetTaskRequest(task="WEB-1"), metadata={}, timeout=5)
    assert found == Task(id="task_1", key="WEB-1", title="Ünïcode\u2028line")


@pytest.mark.parametrize("kind", TRANSPORTS)
@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
async def test_an_error_is_the_same_error(kind: str, error: TaskManError) -> None:
    """SDK-4: class, message, reason, metadata, fields and retry time cross every wire."""

    async def fail(seen: Seen) -> Message:
        raise error

    async with reach(Stage(fail), kind) as transport:
        with pytest.raises(type(error)) as caught:
            await transport.unary(GET, GetTaskRequest(task="WEB-1"), metadata={}, timeout=5)
    for name in ("message", "reason", "metadata", "field_violations", "retry_after"):
        assert getattr(caught.value, name) == getattr(error, name), name


@pytest.mark.parametrize("kind", TRANSPORTS)
async def test_time_runs_out_alike(kind: str) -> None:
    """SDK-3: the deadline ends the call, whatever the server does."""
    cancelled = asyncio.Event()

    async def hang(seen: Seen) -> Message:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    async with reach(Stage(hang), kind) as transport:
        with pytest.raises(DeadlineExceededError, match=r"TaskService\.GetTask within 0\.1 s"):
            await transport.unary(GET, GetTaskRequest(task="WEB-1"), metadata={}, timeout=0.1)
        async with asyncio.timeout(5):
            await cancelled.wait()


@pytest.mark.parametrize("kind", TRANSPORTS)
async def test_a_caller_who_gives_up_stops_the_server(kind: str) -> None:
    """SDK-2: cancellation travels."""
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def hang(seen: Seen) -> Message:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    async with reach(Stage(hang), kind) as transport:
        task = asyncio.ensure_future(transport.unary(GET, GetTaskRequest(task="x"), metadata={}, timeout=30))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(5):
            await cancelled.wait()


@pytest.mark.parametrize("kind", TRANSPORTS)
async def test_headers_arrive_alike(kind: str) -> None:
    """SDK-2, SDK-3"""
    stage = Stage(answer_task)
    metadata = {"authorization": "Bearer abc", "idempotency-key": "k1", "x-request-id": "req_9", "traceparent": "00-x"}
    async with reach(stage, kind) as transport:
        await transport.unary(GET, GetTaskRequest(task="WEB-1"), metadata=metadata, timeout=5)
    assert {name: stage.seen[0].metadata[name] for name in metadata} == metadata


async def tasks(transport: Transport) -> AsyncIterator[str]:
    async for piece in transport.stream(EXPORT, ExportTasksRequest(), metadata={}, timeout=5):
        assert isinstance(piece, ExportTasksResponse)
        assert piece.task is not None
        yield piece.task.title


@pytest.mark.parametrize("kind", TRANSPORTS)
async def test_a_stream_ends_with_its_last_item(kind: str) -> None:
    """SDK-5: line separators inside a value do not break it."""
    titles = ["one", "two\u2028\u0085\n", ""]

    async def many(seen: Seen) -> AsyncIterator[Message]:
        for title in titles:
            yield ExportTasksResponse(task=Task(title=title))

    async with reach(Stage(answers=many), kind) as transport:
        assert [title async for title in tasks(transport)] == titles


@pytest.mark.parametrize("kind", TRANSPORTS)
async def test_an_error_in_the_middle_of_a_stream_is_raised_there(kind: str) -> None:
    """SDK-2: a stream that broke does not look like one that ended."""

    async def broken(seen: Seen) -> AsyncIterator[Message]:
        yield ExportTasksResponse(task=Task(title="one"))
        raise NotFoundError("The project is gone.", reason="PROJECT_NOT_FOUND")

    async with reach(Stage(answers=broken), kind) as transport:
        titles = tasks(transport)
        assert await anext(titles) == "one"
        with pytest.raises(NotFoundError) as caught:
            await anext(titles)
    assert caught.value.reason == "PROJECT_NOT_FOUND"


@pytest.mark.parametrize("scheme", ["http", "grpc"])
async def test_nobody_there_is_unavailable(scheme: str) -> None:
    """SDK-2: with the address and what to check."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        offset = contract.AREAS.index("task") if scheme == "grpc" else 0
        transport = open_transport(f"{scheme}://127.0.0.1:{port - offset}")
        try:
            with pytest.raises(UnavailableError, match=rf"127\.0\.0\.1:{port} cannot be reached"):
                await transport.unary(GET, GetTaskRequest(task="WEB-1"), metadata={}, timeout=5)
        finally:
            await transport.close()


@pytest.mark.parametrize("url", ["", "tasks.example", "ftp://tasks.example", "http://", "https:///"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    """SDK-1"""
    with pytest.raises(ValueError, match="no address of a server"):
        open_transport(url)


async def over_http(response: httpx.Response) -> None:
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: response)) as client:
        transport = HttpTransport("http://tasks.test/", client=client)
        await transport.unary(GET, GetTaskRequest(task="WEB-1"), metadata={}, timeout=5)


@pytest.mark.parametrize(
    ("response", "kind", "text"),
    [
        (httpx.Response(200, text="<html>It works!</html>"), UnknownError, "Is this the address of a TaskMan server"),
        (httpx.Response(502, text="<html>Bad gateway"), UnavailableError, "502 Bad Gateway"),
        (httpx.Response(503, json=["not ours"]), UnavailableError, "503"),
        (httpx.Response(400, json={"errors": "?", "detail": "no"}), InvalidArgumentError, "400"),
        (httpx.Response(301, headers={"location": "https://new.test/"}), UnknownError, "https://new.test/"),
        (httpx.Response(429, headers={"retry-after": "7"}), ResourceExhaustedError, "429"),
    ],
)
async def test_answers_of_proxies_and_strangers_are_errors_of_the_tree(
    response: httpx.Response, kind: type[TaskManError], text: str
) -> None:
    """SDK-4"""
    with pytest.raises(kind, match=text) as caught:
        await over_http(response)
    assert caught.value.retry_after == (7 if response.status_code == 429 else None)


@pytest.mark.parametrize(
    ("operation", "request_", "expected"),
    [
        ("GetTask", GetTaskRequest(task="a/b ?#ü"), ("GET", "/v1/tasks/a%2Fb%20%3F%23%C3%BC", None)),
        (
            "ListTasks",
            ListTasksRequest(page_size=5, filter='"a" in labels && x', show_deleted=True),
            ("GET", "/v1/tasks?page_size=5&filter=%22a%22%20in%20labels%20%26%26%20x&show_deleted=true", None),
        ),
        (
            "UpdateTask",
            UpdateTaskRequest.from_json('{"task": {"id": "WEB-1", "title": "x"}, "updateMask": "title,dueTime"}'),
            ("PATCH", "/v1/tasks/WEB-1?update_mask=title%2Cdue_time", b'{"title":"x"}'),
        ),
    ],
)  # fmt: skip
def test_a_message_becomes_path_query_and_body(
    operation: str, request_: Message, expected: tuple[str, str, bytes | None]
) -> None:
    """SDK-2: after google.api.http."""
    assert rest_request(contract.method(f"TaskService.{operation}"), request_) == expected


def test_repeated_fields_repeat_in_the_query() -> None:
    """SDK-2"""
    method = contract.method("UserService.BatchGetUsers")
    _, target, _ = rest_request(method, BatchGetUsersRequest(emails=["a@x.org", "b+c@x.org"]))
    assert target == "/v1/users:batchGet?emails=a%40x.org&emails=b%2Bc%40x.org"


@pytest.mark.parametrize("key", ["", ".", ".."])
async def test_an_id_that_would_lead_elsewhere_is_not_sent(key: str) -> None:
    """SDK-2: `GET /v1/tasks/` is another call, and `..` climbs."""
    stage = Stage(answer_task)
    async with reach(stage, "http") as transport, AsyncTaskMan(transport=transport) as client:
        with pytest.raises(InvalidArgumentError):
            await client.tasks.get(key)
    assert stage.seen == []
