"""The cluster shape's eight processes on one machine: started, watched, started again, stopped in order (OPS-2)."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Final

import click

from taskman_server.cli.run import GATEWAY
from taskman_server.settings import SERVICES

__all__ = ["Supervisor"]

_PAUSE: Final = (0.2, 10.0)
_SETTLED_SECONDS: Final = 30.0
_UPKEEP_SECONDS: Final = 43_200.0
_COMMAND: Final = (sys.executable, "-c", "from taskman_server.cli import main; main()", "run")
_PR_SET_PDEATHSIG: Final = 1


def _end_with_parent() -> None:
    """In a child: SIGTERM when the supervisor dies, however it dies. Linux alone can do this."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Supervisor:
    """Starts the processes and keeps them up."""

    def __init__(
        self,
        environment: Mapping[str, str],
        drain_seconds: float,
        arguments: tuple[str, ...] = (),
        upkeep: Callable[[], None] | None = None,
    ) -> None:
        """Args:
        environment: of the processes: the settings.
        drain_seconds: how long a process may take to end.
        arguments: what each is started with beside its name.
        upkeep: done twice a day beside them, in a thread: certificates end while processes run.
        """
        self._environment = dict(environment)
        self._drain_seconds = drain_seconds
        self._arguments = arguments
        self._upkeep = upkeep
        self._children: dict[str, asyncio.subprocess.Process] = {}
        self._stop = asyncio.Event()
        self.failed = ""

    async def run(self, stop: asyncio.Event) -> None:
        """Runs all until `stop` is set, or one cannot work with these settings; `failed` is its name then."""
        self._stop = stop
        keepers = {name: asyncio.create_task(self._keep(name)) for name in (*SERVICES, GATEWAY)}
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_UPKEEP_SECONDS):
                    await stop.wait()
            if self._upkeep is not None and not stop.is_set():
                try:
                    await asyncio.to_thread(self._upkeep)
                except Exception as error:  # whatever it is, the processes go on
                    click.echo(f"certificates could not be looked after: {error}", err=True)
        # The edge first: what it has let in still finds its services.
        await self._end([GATEWAY])
        await self._end(list(SERVICES))
        await asyncio.gather(*keepers.values())

    async def _keep(self, name: str) -> None:
        pause, settled = _PAUSE[0], False
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                child = await self._start(name)
            except OSError as error:  # no memory, no process to be had: the next time perhaps
                how = f"could not be started ({error.strerror})"
            else:
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

    async def _start(self, name: str) -> asyncio.subprocess.Process:
        child = await asyncio.create_subprocess_exec(
            *_COMMAND, name, *self._arguments, env=self._environment, stdin=asyncio.subprocess.DEVNULL,
            preexec_fn=_end_with_parent,
            # Ctrl-C at a terminal is for us: we end the edge first, and a second signal would cut its requests off.
            start_new_session=True,
        )  # fmt: skip
        self._children[name] = child
        if self._stop.is_set():
            await self._end_one(child)  # it came too late to be ended with the others
        return child

    async def _end(self, names: list[str]) -> None:
        await asyncio.gather(*(self._end_one(self._children[name]) for name in names if name in self._children))

    async def _end_one(self, child: asyncio.subprocess.Process) -> None:
        with contextlib.suppress(ProcessLookupError):
            child.terminate()
        try:
            async with asyncio.timeout(self._drain_seconds + 10):
                await child.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()
