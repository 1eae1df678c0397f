"""One trial: clients write while something happens to a deployment; then all comes to rest, and is counted."""

from __future__ import annotations

import asyncio
import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx

from tests.chaos.reconcile import Reckoning
from tests.chaos.scene import Scene, people
from tests.chaos.stores import ClusterStores
from tests.chaos.writers import Crew
from tests.contract.receivers import HookServer
from tests.contract.waiting import eventually

__all__ = ["Deployment", "Run"]

_PATIENCE = 15.0


class Deployment(ABC):
    """Processes of the cluster shape.

    Attributes:
        urls: of its gateways.
        stores: what they write.
        hooks: who receives their webhooks.
    """

    urls: Sequence[str]
    stores: ClusterStores
    hooks: HookServer

    @abstractmethod
    async def well(self) -> None:
        """Returns when all processes are ready, without a hand from here."""

    @abstractmethod
    def tail(self) -> str:
        """The end of the log."""

    @asynccontextmanager
    async def run(self, title: str, *, rate: float, writers: int, strict: bool = False) -> AsyncIterator[Run]:
        """Clients write while the block does something. Prints the tallies at its end.

        Args:
            title: what is done.
            rate: writes a second.
            writers: how many clients.
            strict: no request may be answered with an error.
        """
        await self.well()
        scene = await people(self.urls, self.hooks, writers=writers, heard="task.completed")
        async with scene.writing(rate=rate, strict=strict) as crew:
            crew.up.set()
            run = Run(title, self, scene, crew)
            await run.wrote(10)
            try:
                yield run
                await run.reckon()
            except BaseException:
                print(self.tail())
                raise
            finally:
                with contextlib.suppress(httpx.TransportError):
                    await scene.leave()


@dataclass(slots=True)
class Run:
    """One trial.

    Attributes:
        title: what is done.
        notes: what was measured meanwhile.
        reckoning: once it is over.
    """

    title: str
    place: Deployment
    scene: Scene
    crew: Crew
    notes: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    reckoning: Reckoning | None = None

    async def wrote(self, count: int = 1, seconds: float = 60) -> float:
        """Returns when so many more writes are acknowledged; how many seconds that took."""
        began, enough = time.monotonic(), len(self.crew.acknowledged) + count

        async def look() -> bool:
            self.crew.check()
            return len(self.crew.acknowledged) >= enough

        await eventually(look, f"{count} more writes", seconds=seconds)
        return time.monotonic() - began

    async def writing_for(self, seconds: float) -> None:
        """Lets them write for a while: for the length of an outage there is no condition but its length."""
        await asyncio.sleep(seconds)
        self.crew.check()

    async def caught_up(self, seconds: float = 120) -> float:
        """Returns when an event of now has reached the audit log; how many seconds that took. Writers go on; only where
        the machine does not carry their rate, so that the log would never catch up, they stop for it."""
        began = time.monotonic()
        await self.wrote()
        request = f"{self.crew.acknowledged[-1].key}.%"
        query = f"SELECT count(*) FROM records WHERE request_id LIKE '{request}'"

        async def look() -> bool:
            self.crew.check()
            await asyncio.sleep(0.05)
            return bool((await self.place.stores.rows("audit", query))[0][0])

        try:
            await eventually(look, "the audit log", seconds=_PATIENCE, ignore=(OSError,))
        except AssertionError:
            self.notes.append(f"writers stopped: the audit log was more than {_PATIENCE} s behind")
            await self.crew.pause()
            await eventually(look, "the audit log", seconds=seconds, ignore=(OSError,))
            self.crew.up.set()
        return time.monotonic() - began

    async def reckon(self) -> None:
        """Writers end, all comes to rest, and is compared."""
        place, scene, crew = self.place, self.scene, self.crew
        await crew.finish(60)
        seconds = time.monotonic() - self.began
        await place.well()
        began = time.monotonic()
        await scene.settle(place.stores, 120, None)
        rest = time.monotonic() - began
        besides = await place.stores.cut_off()
        self.reckoning = await scene.reckon(crew, besides, alone=False)
        await scene.settle(place.stores, 60, None)  # what the reading itself put on record
        await self.reckoning.stores(place.stores, scene.project, f"write-{scene.run}-")
        rate = len(crew.acknowledged) / seconds
        lines = [
            f"\n{self.title}: {seconds:.1f} s, {rate:.0f} writes/s, {crew.reads} reads, at rest after {rest:.1f} s"
        ]
        lines += [f"  {note}" for note in self.notes]
        lines += [f"  attempts without an answer or with 'try again': {dict(crew.lost)}", self.reckoning.report()]
        self.notes = ["\n".join(lines)]
        print(self.notes[0])
        assert not self.reckoning.problems, "\n".join(self.reckoning.problems)
