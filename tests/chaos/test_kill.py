"""`kill -9` at random moments while clients write and consumers run; and a graceful stop in the same traffic."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.chaos.reconcile import Reckoning
from tests.chaos.scene import SETTINGS, WRITERS, Scene, people
from tests.chaos.stores import FileStores
from tests.chaos.writers import Crew
from tests.contract.receivers import HookServer
from tests.contract.waiting import eventually
from tests.serving import ServerProcess


@dataclass(slots=True)
class Stage:
    """The server, what is in it, and its files."""

    server: ServerProcess
    scene: Scene
    stores: FileStores


@pytest.fixture(params=[1, 2], ids=["alone", "workers"])
def workers(request: pytest.FixtureRequest) -> int:
    """How many processes answer."""
    count: int = request.param
    return count


@pytest.fixture
async def stage(tmp_path: Path, hooks: HookServer, workers: int) -> AsyncIterator[Stage]:
    server = ServerProcess(tmp_path / "data", settings={**SETTINGS, "workers": str(workers)})
    try:
        server.start()
        await asyncio.to_thread(server.wait_ready)
        yield Stage(server, await people([server.url], hooks), FileStores(server.data))
    finally:
        await asyncio.to_thread(server.stop)


async def _kill(server: ServerProcess, crew: Crew, rng: random.Random, kills: int) -> dict[str, int]:
    """Kills the running server so many times: most times among the writes, now and then while it still starts and makes
    up for the kill before. Leaves it dead."""
    moments = {"among writes": 0, "while it started": 0}
    for number in range(kills):
        if number > 0:
            server.start()
        if number % 5 == 4:
            await asyncio.sleep(rng.uniform(0.1, 1.5))
            moments["while it started"] += 1
        else:
            await asyncio.to_thread(server.wait_ready)
            before = crew.sent
            crew.up.set()

            async def writes(before: int = before) -> bool:
                crew.check()
                return crew.sent > before

            await eventually(writes, "a write")
            await asyncio.sleep(rng.uniform(0.005, 0.4))
            moments["among writes"] += 1
        crew.up.clear()
        server.kill()
        crew.check()
    return moments


async def _reckon(stage: Stage, crew: Crew, besides: Collection[str] = ()) -> Reckoning:
    reckoning = await stage.scene.reckon(crew, besides)
    await stage.scene.settle(stage.stores, 30, besides)  # what the reading itself put on record
    assert await asyncio.to_thread(stage.server.terminate, 15) == 0
    await reckoning.stores(stage.stores, stage.scene.project)
    return reckoning


@pytest.mark.timeout(900)
async def test_no_acknowledged_write_is_lost_or_done_twice_whenever_the_server_is_killed(
    stage: Stage, chaos_long: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """EVENT-1, GATE-5, AUDIT-1, NOTIFY-1: SIGKILL at random moments while clients write and consumers run. Every
    acknowledged write is there once, its events reached the audit log, the inboxes and the webhook once, and the audit
    chain verifies."""
    scene, seed = stage.scene, secrets.randbelow(10**6)
    rng = random.Random(seed)
    print(f"seed {seed}")
    async with scene.writing() as crew:
        began = time.monotonic()
        moments = await _kill(stage.server, crew, rng, 60 if chaos_long else 10)
        # The long form waits until these are made again, the short one does not.
        besides = frozenset() if chaos_long else await stage.stores.cut_off()
        stage.server.start()
        await asyncio.to_thread(stage.server.wait_ready)
        crew.up.set()
        enough = len(crew.acknowledged) + 30

        async def wrote_on() -> bool:
            crew.check()
            return len(crew.acknowledged) >= enough

        await eventually(wrote_on, "more writes", seconds=30)
        await crew.finish(30)
        killing = time.monotonic() - began
        await scene.settle(stage.stores, 240, besides)
        settling = time.monotonic() - began - killing
        reckoning = await _reckon(stage, crew, besides)
    with capsys.disabled():
        print(f"\nkills: {moments} in {killing:.0f} s, at rest after {settling:.1f} s (seed {seed})")
        print(f"  attempts without an answer: {dict(crew.lost)}")
        print(reckoning.report())
    assert not reckoning.problems, "\n".join(reckoning.problems)
    assert moments["among writes"] >= (48 if chaos_long else 8)
    assert sum(write.attempts > 1 for write in crew.acknowledged) > 0, "no kill hit a write: the test showed nothing"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("workers", [3], ids=["workers"], indirect=True)
async def test_a_worker_that_is_killed_among_writes_loses_none_of_them(
    stage: Stage, chaos_long: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """EVENT-1, OPS-7: SIGKILL for one worker after the other. The others answer, and who was cut off asks again; what a
    worker had committed and could not tell of is published all the same."""
    rng = random.Random(secrets.randbelow(10**6))
    server = psutil.Process(stage.server.pid)
    async with stage.scene.writing() as crew:
        crew.up.set()
        kills, least = 0, 40 if chaos_long else 6
        # The clients' connections may all be to workers that were left alive so far.
        while kills < least or (not crew.lost and kills < 5 * least):
            before = len(crew.acknowledged)

            async def wrote(least: int = before + 10) -> bool:
                crew.check()
                return len(crew.acknowledged) >= least

            await eventually(wrote, "writes while workers are killed", seconds=60)
            if found := [each for each in server.children() if "worker" in each.cmdline()]:
                rng.choice(found).kill()
                kills += 1
            await asyncio.sleep(rng.uniform(0.005, 0.4))
        await crew.finish(60)
        await stage.scene.settle(stage.stores, 60)
        reckoning = await _reckon(stage, crew)
    with capsys.disabled():
        print(f"\n{kills} workers killed; attempts without an answer: {dict(crew.lost)}")
        print(reckoning.report())
    assert not reckoning.problems, "\n".join(reckoning.problems)
    assert crew.lost.total() > 0, "no kill hit a request: the test showed nothing"


async def test_a_graceful_stop_answers_every_request_that_it_took_on(stage: Stage) -> None:
    """OPS-7: SIGTERM while clients write. The server ends by itself with exit code 0 within 15 s; a request that it
    took on is answered, so that no write that had an effect has to be asked for twice."""
    scene = stage.scene
    async with scene.writing() as crew:
        crew.up.set()

        async def wrote() -> bool:
            crew.check()
            return len(crew.acknowledged) >= 100

        await eventually(wrote, "a hundred writes", seconds=30)
        before = len(crew.acknowledged)
        code = asyncio.create_task(asyncio.to_thread(stage.server.terminate, 15))

        async def refused() -> bool:
            crew.check()
            return crew.lost["ConnectError"] > 0

        await eventually(refused, "the end of the server", seconds=15)
        crew.up.clear()
        assert await code == 0

        async def all_wait() -> bool:
            return crew.waiting == WRITERS

        await eventually(all_wait, "the last answers", seconds=15)
        assert not {reason for reason in crew.lost if reason.isupper()}, f"it answered errors as it ended: {crew.lost}"
        stopped = await stage.stores.rows("tasks", "SELECT key FROM idempotency WHERE key LIKE 'write-%'")
        unanswered = {key for (key,) in stopped} - {write.key for write in crew.acknowledged}
        assert not unanswered, f"done but not answered as the server ended: {unanswered}"
        stage.server.start()
        await asyncio.to_thread(stage.server.wait_ready)
        crew.up.set()
        await crew.finish(30)
        assert len(crew.acknowledged) >= before
        assert not any(write.replayed for write in crew.acknowledged)
        await scene.settle(stage.stores, 60)
        reckoning = await _reckon(stage, crew)
    assert not reckoning.problems, "\n".join(reckoning.problems)
