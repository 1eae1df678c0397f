"""An embedded server's workers: processes that answer requests beside the first one, which does all the rest (OPS-1).

The first process migrates, relays, consumes, sends and cleans up; a worker (`worker`) does what a request asks for, on
the same files. Each has a listening socket of its own on the one port, and the kernel spreads connections among them.
Over the line between them (`link`) a worker says where it has written, takes blocks of rate limits, and asks how the
server is. A worker that dies is started again; when the first process dies its workers end at once.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from pydantic import SecretStr

from taskman_server.app.children import Children
from taskman_server.app.link import Answers, Link
from taskman_server.kit.operations import samples_of, summed

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

    from taskman_server.app.units import Unit
    from taskman_server.kit.limits import Limiter
    from taskman_server.kit.operations import Readiness
    from taskman_server.settings import Settings

__all__ = ["Workers"]

_COMMAND: Final = (sys.executable, "-c", "from taskman_server.cli import main; main()", "worker")


class Workers:
    """The workers, as the first process sees them."""

    def __init__(self, settings: Settings, lock: int, registry: Collector, services: Mapping[str, Unit]) -> None:
        """Args:
        settings: with the port known; `workers` is how many processes answer, the first one included.
        lock: the data folder's. Workers hold it too: while one lives, no other server begins.
        registry: the metrics of this process.
        services: by name; woken when a worker has written to their database.
        """
        self._settings = settings
        self._lock = lock
        self._registry = registry
        self._services = services
        self._names = [f"worker {number}" for number in range(2, settings.workers + 1)]
        self._links: dict[str, Link] = {}
        self._ready: set[str] = set()
        self._awaited = set(self._names)
        self._last: dict[str, list[Any]] = {}
        self._past: list[Any] = []
        self._all_up = asyncio.Event()
        self._stop = asyncio.Event()
        self._children = Children(self._start, settings.drain_seconds, self._stop)
        self._keepers: list[asyncio.Task[None]] = []
        self._health: Readiness | None = None
        self._limiter: Limiter | None = None

    def connect(self, health: Readiness, limiter: Limiter | None) -> None:
        """Args:
        health: how the server is.
        limiter: has the buckets that workers take from.
        """
        self._health, self._limiter = health, limiter

    def begin(self) -> None:
        """Starts them, and again whenever one ends."""
        self._keepers = [asyncio.create_task(self._children.keep(name), name=name) for name in self._names]

    async def up(self) -> None:
        """Returns when each has answered for the first time."""
        if self._awaited:
            await self._all_up.wait()

    async def stop(self) -> None:
        """Ends them; requests under way get their time."""
        self._stop.set()
        await self._children.end(self._names)
        await asyncio.gather(*self._keepers)
        for link in list(self._links.values()):
            await link.close()

    def states(self) -> dict[str, str]:
        """What `/readyz` says of each, once `begin` was called."""
        names = self._names if self._keepers else []
        return {name: "ok" if name in self._ready else "it is starting" for name in names}

    def needed(self) -> frozenset[str]:
        """Those that have not come up yet. One that did and is away leaves its work to the others."""
        return frozenset(self._awaited)

    async def metrics(self) -> Collector:
        """What all processes have counted, with those that have died as far as that is known."""
        links = dict(self._links)
        answers = await asyncio.gather(*(link.ask("metrics") for link in links.values()), return_exceptions=True)
        for name, answer in zip(links, answers, strict=True):
            if isinstance(answer, list):
                self._last[name] = answer
        return summed([samples_of(self._registry), self._past, *self._last.values()])

    async def _start(self, name: str) -> asyncio.subprocess.Process:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                child = await asyncio.create_subprocess_exec(
                    *_COMMAND, str(theirs.fileno()), pass_fds=(theirs.fileno(), self._lock),
                    stdin=asyncio.subprocess.DEVNULL,
                    # Ctrl-C at a terminal is for us, who tell the others.
                    start_new_session=True,
                )  # fmt: skip
            except BaseException:
                ours.close()
                raise
        self._links[name] = await Link.open(ours, self._answers(name), lambda: self._gone(name))
        return child

    def _gone(self, name: str) -> None:
        self._links.pop(name, None)
        self._ready.discard(name)
        if (last := self._last.pop(name, None)) is not None:
            self._past = samples_of(summed([self._past, last]))

    def _answers(self, name: str) -> Answers:
        async def settings(_: None) -> Any:
            return json.loads(json.dumps(self._settings.model_dump(), default=_plain))

        async def ready(_: None) -> None:
            self._ready.add(name)
            self._awaited.discard(name)
            if not self._awaited:
                self._all_up.set()

        async def wrote(services: list[str]) -> None:
            for service in services:
                self._services[service].wake()

        async def lease(asked: tuple[str, int, int]) -> tuple[int, float]:
            assert self._limiter is not None
            return self._limiter.lease(*asked)

        async def health(_: None) -> Any:
            assert self._health is not None
            found = await self._health()
            return [dict(found.parts), list(found.needed or ())]

        async def scrape(_: None) -> Any:
            return samples_of(await self.metrics())

        return {each.__name__: each for each in (settings, ready, wrote, lease, health, scrape)}


def _plain(value: Any) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)
