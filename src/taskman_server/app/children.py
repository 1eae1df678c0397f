"""Processes that are started, watched, started again when they end, and ended in order (OPS-2, OPS-7)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import click

__all__ = ["Children"]

_PAUSE: Final = (0.2, 10.0)
_SETTLED_SECONDS: Final = 30.0


class Children:
    """The processes below this one, by name."""

    def __init__(self, start: Callable[[str], Awaitable[Process]], drain_seconds: float, stop: asyncio.Event) -> None:
        """Args:
        start: starts the process of a name. Raises OSError.
        drain_seconds: how long a process may take to end.
        stop: set when none is to be started any more.
        """
        self._start = start
        self._drain_seconds = drain_seconds
        self._stop = stop
        self._processes: dict[str, Process] = {}
        self.failed = ""

    async def keep(self, name: str) -> None:
        """Keeps one up until `stop` is set, or it says that it cannot work with these settings: then `failed` is its
        name, and `stop` is set."""
        pause, settled = _PAUSE[0], False
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                child = self._processes[name] = await self._start(name)
            except OSError as error:  # no memory, no process to be had: the next time perhaps
                how = f"could not be started ({error.strerror})"
            else:
                if self._stop.is_set():
                    await self._end_one(child)  # it came too late to be ended with the others
                code = await child.wait()
                how = f"ended with {code}"
                if self._stop.is_set():
                    return
                if code == os.EX_CONFIG and not settled:
                    self.failed = name
                    self._stop.set()
                    return
            if time.monotonic() - started > _SETTLED_SECONDS:
                pause = _PAUSE[0]
                # These settings have worked: what is wrong now, say a certificate half written, ends no other process.
                settled = True
            click.echo(f"{name} {how} and starts again in {pause:.1f} s", err=True)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stop.wait()
            pause = min(pause * 2, _PAUSE[1])

    async def end(self, names: Iterable[str]) -> None:
        """Ends these; they get their time. To be called when `stop` is set."""
        await asyncio.gather(*(self._end_one(self._processes[name]) for name in names if name in self._processes))

    async def _end_one(self, child: Process) -> None:
        with contextlib.suppress(ProcessLookupError):
            child.terminate()
        try:
            async with asyncio.timeout(self._drain_seconds + 10):
                await child.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()
