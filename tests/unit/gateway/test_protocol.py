"""The bounds of a request's head, at a real socket (GATE-4, GATE-9)."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress

import pytest
import uvicorn
import uvloop

from taskman_server.gateway import protocol
from taskman_server.gateway.admission import Admission
from taskman_server.gateway.http import Receive, Scope, Send, head_of, respond
from tests.contract.waiting import eventually


class _Application:
    def __init__(self) -> None:
        self.admission = Admission()
        self.admission.limit = 2
        self.admission._half = 1
        self.remembered = _Remembered()
        self.begun = 0
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.body = b"{}"
        self.answered: Callable[[], object] = lambda: None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.begun += 1
        await self.may_end.wait()
        await respond(send, 200, self.body, head_of(self.body, b"application/json"))
        self.answered()


class _Remembered:
    """Knows one answer."""

    def answer(self, target: bytes, headers: object, address: str) -> bytes | None:
        known = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nknown"
        return known if target == b"/v1/known" and address == "127.0.0.1" else None


@pytest.fixture
def application() -> _Application:
    """Lets two requests in at once."""
    return _Application()


@pytest.fixture
async def port(application: _Application, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """A server with the gateway's protocol and little patience."""
    monkeypatch.setattr(protocol, "MAX_HEAD_SECONDS", 0.3)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(application, **protocol.options(), timeout_keep_alive=1))

    async def started() -> bool:
        return server.started

    serving = asyncio.create_task(server.serve([listener]))
    await eventually(started, "the start of the server")
    yield listener.getsockname()[1]
    server.should_exit = True
    await serving


async def _send(port: int, *pieces: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with suppress(ConnectionError):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
    try:
        return await asyncio.wait_for(reader.read(), 20)
    except ConnectionError:
        return b"reset"
    finally:
        writer.close()


HEAD = b"GET /v1/tasks HTTP/1.1\r\nhost: x\r\n"


async def test_a_head_of_the_usual_size_is_answered(port: int) -> None:
    """GATE-4: and the connection stays open for the next request."""
    answer = await _send(port, HEAD + b"\r\n", HEAD + b"connection: close\r\n\r\n")
    assert answer.count(b"200 OK") == 2


@pytest.mark.parametrize("size", [80_000, 5_000_000], ids=["in one piece", "without end"])
async def test_a_head_that_is_too_large_is_refused(port: int, size: int) -> None:
    """GATE-4: 431 while it is still coming, so that no memory fills with it."""
    answer = await _send(port, HEAD + b"x-big: ", *[b"a" * 10_000] * (size // 10_000), b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 431 ") or answer == b"reset"
    if answer != b"reset":
        assert b"REQUEST_HEADERS_TOO_LARGE" in answer


async def test_many_headers_count_together(port: int) -> None:
    """GATE-4."""
    answer = await _send(port, HEAD + b"".join(b"x-%d: %s\r\n" % (n, b"a" * 1000) for n in range(80)) + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("begun", [b"", HEAD], ids=["nothing", "half a head"])
async def test_a_head_that_does_not_come_ends_the_connection(port: int, begun: bytes) -> None:
    """GATE-9: connections that say nothing do not pile up."""
    assert await _send(port, begun) == b""


async def test_a_second_head_on_a_connection_has_its_own_time(port: int) -> None:
    """GATE-9: half a second request after a whole one ends too."""
    answer = await _send(port, HEAD + b"\r\n", HEAD)
    assert answer.count(b"200 OK") == 1


@asynccontextmanager
async def _full(application: _Application, port: int) -> AsyncIterator[None]:
    """Two requests are under way, and no more are let in."""
    application.may_end.clear()
    under_way = [asyncio.create_task(_send(port, HEAD + b"connection: close\r\n\r\n")) for _ in range(2)]

    async def begun() -> bool:
        return application.begun == 2

    await eventually(begun, "two requests under way")
    yield
    application.may_end.set()
    for answer in await asyncio.gather(*under_way):
        assert b"200 OK" in answer


async def test_who_is_not_let_in_is_told_when_to_come_again(application: _Application, port: int) -> None:
    """GATE-9: at once, with a problem document, under the request's own id; nothing is made of the request."""
    async with _full(application, port):
        answer = await _send(port, HEAD + b"x-request-id: mine\r\nconnection: close\r\n\r\n")
        assert application.begun == 2
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    lines = head.lower().split(b"\r\n")
    assert {b"retry-after: 1", b"x-request-id: mine", b"content-type: application/problem+json"} <= set(lines)
    problem = json.loads(body)
    assert (problem["status"], problem["reason"]) == (503, "SERVER_OVERLOADED")


async def test_a_refused_connection_may_ask_again(application: _Application, port: int) -> None:
    """GATE-9: it stays, with what is left of a body passed over, and is answered once there is room."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with _full(application, port):
        for request in (
            HEAD + b"\r\n",
            b"POST /v1/tasks HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nbody",
        ):
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503 ")
            size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(size)
        writer.write(HEAD.replace(b"GET", b"HEAD") + b"\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 503 ")
    writer.write(HEAD + b"connection: close\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 200 "), "no body came for HEAD"
    writer.close()


def test_as_many_connections_as_are_let_in_are_never_refused(application: _Application) -> None:
    """GATE-9: with a page for each request, which could be with its client before the request has left the system.

    On uvloop, which reads from its sockets before it goes on with what this turn has begun."""
    application.body = bytes(60_000)
    application.answered = lambda: threading.Event().wait(0.002)  # the turn goes on for a while
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(application, **protocol.options()))
    serving = threading.Thread(target=lambda: uvloop.run(server.serve([listener])))
    serving.start()

    def ask() -> list[int]:
        connection = http.client.HTTPConnection(*listener.getsockname())
        found = []
        for _ in range(50):
            connection.request("GET", "/v1/tasks")
            answer = connection.getresponse()
            answer.read()
            found.append(answer.status)
        connection.close()
        return found

    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(ask) for _ in range(2)]
    server.should_exit = True
    serving.join()
    assert [set(each.result()) for each in asking] == [{200}, {200}]


async def test_a_refused_upload_ends_the_connection(application: _Application, port: int) -> None:
    """GATE-9: nobody waits for megabytes that are not wanted."""
    async with _full(application, port):
        answer = await _send(port, b"POST /v1/tasks HTTP/1.1\r\nhost: x\r\ncontent-length: 9000000\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"connection: close" in answer


async def test_signing_in_and_health_are_let_in(application: _Application, port: int) -> None:
    """GATE-9: priorities."""
    async with _full(application, port):
        waiting = [
            asyncio.create_task(_send(port, HEAD.replace(b"/v1/tasks", path) + b"connection: close\r\n\r\n"))
            for path in (b"/v1/auth/login", b"/healthz")
        ]

        async def begun() -> bool:
            return application.begun == 4

        await eventually(begun, "both let in")
    for answer in await asyncio.gather(*waiting):
        assert b"200 OK" in answer


async def test_answers_keep_their_order(application: _Application, port: int) -> None:
    """GATE-9: a request behind another one on its connection is not told before that one is answered."""
    application.may_end.clear()
    under_way = [asyncio.create_task(_send(port, HEAD + b"\r\n" + HEAD + b"connection: close\r\n\r\n")) for _ in "ab"]

    async def begun() -> bool:
        return application.begun == 2

    await eventually(begun, "two requests under way")
    application.may_end.set()
    for answer in await asyncio.gather(*under_way):
        assert answer.count(b"200 OK") == 2


KNOWN = HEAD.replace(b"/v1/tasks", b"/v1/known")
CLOSE = b"connection: close\r\n\r\n"


async def test_a_remembered_answer_is_given_without_the_application(application: _Application, port: int) -> None:
    """GATE-9: several times on one connection, and in the middle of requests that are worked on."""
    answer = await _send(port, KNOWN + b"\r\n", KNOWN + b"\r\n" + KNOWN + b"\r\n" + HEAD + CLOSE)
    assert [each[-5:] for each in answer.split(b"HTTP/1.1 200 OK")[1:]] == [b"known"] * 3 + [b"\n\r\n{}"]
    assert application.begun == 1


async def test_a_remembered_answer_waits_for_those_before_it(application: _Application, port: int) -> None:
    """GATE-9: answers keep their order (RFC 9112, section 9.3.2), also where the last one is there at once."""
    application.may_end.clear()
    asked = asyncio.create_task(_send(port, HEAD + b"\r\n" + KNOWN + CLOSE))

    async def begun() -> bool:
        return application.begun == 1

    await eventually(begun, "the first request under way")
    application.may_end.set()
    assert (await asked).index(b"{}") < (await asked).rindex(b"HTTP/1.1")


async def test_a_request_behind_a_remembered_answer_has_all_its_time(application: _Application, port: int) -> None:
    """GATE-9: the connection was idle for no moment, so the time that an idle one may stay does not run."""
    application.may_end.clear()
    asyncio.get_running_loop().call_later(1.3, application.may_end.set)  # the idle time is 1 s
    assert (await _send(port, KNOWN + b"\r\n" + HEAD + CLOSE)).count(b"200 OK") == 2


@pytest.mark.parametrize(
    "request_",
    [
        KNOWN.replace(b"GET", b"HEAD") + CLOSE,
        KNOWN.replace(b"GET", b"POST") + b"content-length: 2\r\n" + CLOSE + b"{}",
        KNOWN.replace(b"HTTP/1.1", b"HTTP/1.0") + b"connection: keep-alive\r\n\r\n",
    ],
    ids=["HEAD", "POST", "HTTP/1.0"],
)
async def test_a_remembered_answer_is_for_get_alone(application: _Application, port: int, request_: bytes) -> None:
    """GATE-1: and for connections that stay open without saying so."""
    answer = await _send(port, request_)
    assert application.begun == 1
    assert b"known" not in answer
