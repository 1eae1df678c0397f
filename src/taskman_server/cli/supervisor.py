"""The cluster shape's eight processes on one machine: started, watched, started again, stopped in order (OPS-2)."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Final

import click

from taskman_server.app.children import Children
from taskman_server.cli.run import GATEWAY
from taskman_server.settings import SERVICES

__all__ = ["Supervisor"]

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
        self.failed = ""

    async def run(self, stop: asyncio.Event) -> None:
        """Runs all until `stop` is set, or one cannot work with these settings; `failed` is its name then."""
        names = (*SERVICES, GATEWAY)
        children = Children(self._start, self._drain_seconds, stop)
        keepers = [asyncio.create_task(children.keep(name)) for name in names]
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
        await children.end([GATEWAY])
        await children.end(SERVICES)
        await asyncio.gather(*keepers)
        self.failed = children.failed

    async def _start(self, name: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *_COMMAND, name, *self._arguments, env=self._environment, stdin=asyncio.subprocess.DEVNULL,
            preexec_fn=_end_with_parent,
            # Ctrl-C at a terminal is for us: we end the edge first, and a second signal would cut its requests off.
            start_new_session=True,
        )  # fmt: skip
