"""Head and body of an answer leave together: what a short answer costs (GATE-9)."""

from __future__ import annotations

import asyncio

import pytest

from taskman_server.app.serving import listen, serving
from taskman_server.gateway.http import Receive, Scope, Send


@pytest.mark.parametrize("last", [False, True], ids=["kept open", "closed with it"])
async def test_what_is_written_in_one_turn_of_the_loop_arrives_as_one(last: bool) -> None:
    """Nothing is lost where the connection ends with the answer."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"10"), *([(b"connection", b"close")] if last else [])]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"hello", "more_body": True})
        await send({"type": "http.response.body", "body": b"world"})

    listener = listen("127.0.0.1", 0)
    async with serving(answer, listener, drain_seconds=1):
        reader, writer = await asyncio.open_connection(*listener.getsockname()[:2])
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        whole = await reader.read(65536)  # of a loopback connection, what one system call wrote
        assert whole.startswith(b"HTTP/1.1 200 OK\r\n")
        assert whole.endswith(b"\r\n\r\nhelloworld")
        if last:
            assert await reader.read() == b""
        writer.close()


async def test_a_stream_is_not_held_back() -> None:
    """What is written first arrives before there is more."""
    arrived = asyncio.Event()

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
        await send({"type": "http.response.body", "body": b"hello", "more_body": True})
        await arrived.wait()
        await send({"type": "http.response.body", "body": b"world"})

    listener = listen("127.0.0.1", 0)
    async with serving(answer, listener, drain_seconds=1):
        reader, writer = await asyncio.open_connection(*listener.getsockname()[:2])
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"hello")
        arrived.set()
        assert await reader.readexactly(5) == b"world"
        writer.close()


async def test_a_stream_that_nobody_reads_waits() -> None:
    """GATE-9: what is sent without a turn of the loop between is not gathered in memory."""
    sent, going = 0, asyncio.Event()

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(10_000):
            await send({"type": "http.response.body", "body": b"x" * 10_000, "more_body": True})
            sent += 1
            going.set()

    listener = listen("127.0.0.1", 0)
    async with serving(answer, listener, drain_seconds=1):
        _, writer = await asyncio.open_connection(*listener.getsockname()[:2], limit=1000)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await going.wait()
        for _ in range(100):
            await asyncio.sleep(0)
        assert sent < 5_000
        writer.close()
