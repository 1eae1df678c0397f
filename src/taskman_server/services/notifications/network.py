"""Connections that cannot reach a private network (NOTIFY-7).

A name is resolved, every address it stands for is checked, and the connection is made to the address that was checked:
a second look-up that answers something else (DNS rebinding) never happens.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

import httpcore

from taskman_server.services.notifications.rules import Address, is_reachable

__all__ = ["GuardedBackend", "Refused", "Resolver", "resolve"]

MAX_ADDRESSES: Final = 4
Resolver = Callable[[str, int], Awaitable[Sequence[Address]]]


class Refused(Exception):
    """The host may not be called.

    Its text is for whoever owns the webhook; `note`, for our log alone, may hold what our own DNS knows.
    """

    def __init__(self, text: str, note: str = "") -> None:
        super().__init__(text)
        self.note = note


async def resolve(host: str, port: int) -> Sequence[Address]:
    """All addresses of a host, by the machine's resolver. Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Connects to checked addresses only."""

    def __init__(self, scheme: str, allow_private: bool, resolver: Resolver = resolve) -> None:
        self._scheme = scheme
        self._allow_private = allow_private
        self._resolve = resolver
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connects to one of the host's addresses.

        Raises:
            Refused: one of them may not be called.
            httpcore.ConnectError: the host has no address, or does not answer.
        """
        try:
            addresses = await self._resolve(host, port)
        except OSError:
            raise httpcore.ConnectError("the name cannot be resolved") from None
        # One bad address among good ones is refused too: which one is taken must not be the resolver's choice.
        for address in addresses:
            if not is_reachable(address, self._scheme, self._allow_private):
                raise Refused("its host is at an address that webhooks may not call", f"{host} is at {address}")
        last: Exception = httpcore.ConnectError("the name has no address")
        for address in addresses[:MAX_ADDRESSES]:
            try:
                return await self._backend.connect_tcp(str(address), port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                last = error
        raise last

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.AsyncNetworkStream:
        """Never. Raises Refused."""
        raise Refused("a socket of this machine is no webhook")

    async def sleep(self, seconds: float) -> None:
        """Waits."""
        await self._backend.sleep(seconds)
