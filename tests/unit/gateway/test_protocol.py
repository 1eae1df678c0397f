"""The bounds of a request's head, at a real socket (GATE-4, GATE-9)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import uvicorn

from taskman_server.gateway import protocol
from taskman_server.gateway.http import Receive, Scope, Send, respond
from tests.contract.waiting import eventually


async def _answer(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, 200, b"{}", b"application/json")


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """A server with the gateway's protocol and little patience."""
    monkeypatch.setattr(protocol, "MAX_HEAD_SECONDS", 0.3)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(_answer, **protocol.options()))

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
