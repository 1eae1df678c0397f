"""A worker: answers requests on the files of an embedded server, and does nothing else (see `workers`)."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from prometheus_client.registry import Collector

from taskman_server import data_folder
from taskman_server.app.inside import open_inside
from taskman_server.app.link import Link, LinkLost
from taskman_server.app.serving import listen, serving
from taskman_server.app.units import SERVICES, Desk
from taskman_server.kit.clock import SystemClock
from taskman_server.kit.logs import configure
from taskman_server.kit.operations import Health, samples_of, summed
from taskman_server.settings import Settings

__all__ = ["run_worker"]


async def run_worker(line: int, stop: asyncio.Event) -> None:
    """Answers requests until `stop` is set; then those under way end. Ends at once when the first process is gone.

    Args:
        line: descriptor of the socket to the first process.
        stop: set when the process is to end.

    Raises:
        DatabaseError: a file cannot be opened.
        PortTaken: the port cannot be opened.
    """
    registry: Any = None

    async def metrics(_: None) -> Any:
        return samples_of(registry) if registry is not None else []

    # Without the first process nobody would hear of what is written here.
    link = await Link.open(socket.socket(fileno=line), {"metrics": metrics}, lambda: os._exit(os.EX_SOFTWARE))
    settings = Settings(**await link.ask("settings"))
    configure(settings.log_level, settings.log_format)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(link.close)
        folder = data_folder.open_folder(settings.data)
        inside = await stack.enter_async_context(open_inside(folder, settings, SystemClock()))
        registry = inside.registry
        news = _News(link)
        desks = []
        for each in SERVICES:
            db = inside.databases[each.name]
            db.on_write = news.of(each.name)
            desks.append(Desk.open(each, db, inside.shared, inside.measured[each.name]))
        inside.connect(desks)
        for desk in desks:
            await desk.begin()

        async def ready() -> Health:
            parts, needed = await link.ask("health")
            return Health(parts, frozenset(needed))

        async def scrape() -> Collector:
            return summed([await link.ask("scrape")])

        gateway = inside.gateway(ready, scrape, _Bank(link))
        listener = listen(settings.host, settings.port, share="join")
        async with serving(gateway, listener, drain_seconds=settings.drain_seconds):
            link.tell("ready")
            await stop.wait()


class _News:
    """Says which databases this process has written to, once for each turn of the event loop."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._services: set[str] = set()

    def of(self, service: str) -> Callable[[], None]:
        """To be called after each commit."""
        return partial(self._wrote, service)

    def _wrote(self, service: str) -> None:
        if not self._services:
            asyncio.get_running_loop().call_soon(self._tell)
        self._services.add(service)

    def _tell(self) -> None:
        services, self._services = self._services, set()
        self._link.tell("wrote", list(services))


class _Bank:
    """The buckets of the first process. Implements `kit.limits.Bank`."""

    degraded = False

    def __init__(self, link: Link) -> None:
        self._link = link

    async def lease(self, key: str, wanted: int, back: int) -> tuple[int, float] | None:
        """See `Bank.lease`."""
        try:
            granted, left = await self._link.ask("lease", [key, wanted, back], seconds=1)
        except (LinkLost, TimeoutError):
            return None
        return granted, left
