"""Group commit: one sync of the write-ahead log acknowledges every commit made before it began."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from taskman_server.kit.db.errors import DatabaseUnavailable

_log = logging.getLogger(__name__)
_sync_file = getattr(os, "fdatasync", os.fsync)

_PATIENCE = 0.02  # seconds that a commit waits for others at most, while the event loop is busy
_NOTHING = 0.0002  # seconds: a turn of the event loop that does less does nothing

Callbacks = Sequence[Callable[[], None]]


class GroupCommit:
    """Makes commits durable together.

    The writer runs with `synchronous=NORMAL`, where a commit is a write to the page cache (15 µs) and the log is synced
    only before a checkpoint. What `FULL` would add, a sync of the log after the commit (340 µs), is done here in a
    thread before the commit is acknowledged, once for all that wait; while the event loop is busy it puts that off for
    20 ms at most, for there may be more. The log is a sequence of checksummed frames, so that a commit can only be
    durable together with every commit before it.
    """

    def __init__(self, wal: str, name: str) -> None:
        """Sync the file `wal` for the database called `name`."""
        self._wal = wal
        self._name = name
        self._descriptor: int | None = None
        self._waiting: list[tuple[asyncio.Future[None], Callbacks]] = []
        self._task: asyncio.Task[None] | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=f"sync-{name}")
        self.failed: DatabaseUnavailable | None = None

    def submit(self, callbacks: Callbacks) -> asyncio.Future[None]:
        """Ask for a sync; the answer is done, and the callbacks have run, when it is on disk."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._waiting.append((future, callbacks))
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._run(), name=f"sync-{self._name}")
        return future

    @property
    def busy(self) -> bool:
        """Whether commits wait for the disk."""
        return self._task is not None and not self._task.done()

    async def close(self) -> None:
        """Sync what waits, then stop."""
        while self._task is not None and not self._task.done():
            await asyncio.wait([self._task])
        self._pool.shutdown(wait=True)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            await _at_rest(_PATIENCE)
            batch, self._waiting = self._waiting, []
            try:
                if self.failed is None:
                    await loop.run_in_executor(self._pool, self._sync)
            except OSError as error:
                # After a failed sync the kernel may drop the pages and report success next time: trust nothing more.
                self.failed = DatabaseUnavailable(
                    f"database {self._name} could not be synced to disk ({error.strerror}); whether the last commits"
                    " are kept is not known. Check the disk and restart"
                )
            for future, callbacks in batch:
                if self.failed is None:
                    run_callbacks(callbacks)
                if future.done():
                    continue
                if self.failed is None:
                    future.set_result(None)
                else:
                    future.set_exception(self.failed)

    def _sync(self) -> None:
        if self._descriptor is not None and os.fstat(self._descriptor).st_nlink == 0:
            os.close(self._descriptor)
            self._descriptor = None
        if self._descriptor is None:
            with contextlib.suppress(FileNotFoundError):
                self._descriptor = os.open(self._wal, os.O_RDONLY)
        if self._descriptor is not None:
            _sync_file(self._descriptor)


async def _at_rest(patience: float) -> None:
    """Return when the event loop has nothing else to do, or after so many seconds: what it does may be commits, which
    can share the sync then."""
    now = time.monotonic()
    deadline = now + patience
    while (before := now) < deadline:
        await asyncio.sleep(0)
        now = time.monotonic()
        if now - before < _NOTHING:
            return


def run_callbacks(callbacks: Callbacks) -> None:
    """Run the callbacks of a commit; one that raises is logged and hurts no other."""
    for callback in callbacks:
        try:
            callback()
        except Exception:
            _log.exception("a callback after a commit failed")
