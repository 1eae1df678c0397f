"""An ASGI application on a socket, ended by us: uvicorn's signals would end the process before its parts (OPS-7)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Literal

import uvicorn
from starlette.types import ASGIApp

from taskman_server.gateway.protocol import options

__all__ = ["PortTaken", "listen", "serving"]


class PortTaken(Exception):
    """A port cannot be opened; the message says which, why, and what to do."""


def listen(
    host: str, port: int, flag: str = "--port", share: Literal["no", "open", "join"] = "no", patience: float = 0.0
) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Args:
        host: an address of this machine, or its name.
        port: the port.
        flag: named as the way to choose another port.
        share: `open` lets other processes of the same user `join`; connections are spread among them (by Linux).
        patience: seconds in which the port may become free.

    Raises:
        PortTaken: it cannot be opened.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror:
        raise PortTaken(f"--host {host!r} is no address of this machine") from None
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if share == "join":
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    deadline = time.monotonic() + patience
    while True:
        try:
            listener.bind(address)
            break
        except OSError as error:
            if error.errno == errno.EADDRINUSE and time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            listener.close()
            if error.errno == errno.EADDRNOTAVAIL:
                raise PortTaken(f"--host {host!r} is no address of this machine") from None
            raise PortTaken(
                f"{host}:{port} cannot be opened ({error.strerror}): stop what uses it, or choose another {flag}"
            ) from None
    if share == "open":
        # Not before it is bound: whoever has the port already, another server for example, is not to be joined.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.listen(1024)
    return listener


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serving(application: ASGIApp, listener: socket.socket, *, drain_seconds: float) -> AsyncIterator[None]:
    """Answers requests while the block runs; those under way at its end get `drain_seconds`."""
    settings = {**options(), "timeout_graceful_shutdown": max(1, round(drain_seconds))}
    server = _Server(uvicorn.Config(application, **settings))
    task = asyncio.create_task(server.serve([listener]), name="http")
    try:
        await server.up.wait()
        # What there is by now stays to the end: a collection of garbage that goes through it takes some 100 ms.
        gc.collect()
        gc.freeze()
        yield
    finally:
        server.should_exit = True
        with contextlib.suppress(asyncio.CancelledError):
            await task
