"""kill -9 at every step: no acknowledged write is lost, no event is lost, none has two effects (EVENT-1)."""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from taskman_server.kit.broker.embedded import EmbeddedBroker
from taskman_server.kit.db.sqlite import SqliteDatabase
from tests.store.crash_child import POISON, STEPS
from tests.store.support import count, create_tables, start_child

CHILD = """
from tests.store.crash_child import *
asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
"""


def run(folder: Path, writes: int, step: str = "", turn: int = 0) -> tuple[int, list[str], bool]:
    """Exit code, acknowledged ids, whether it settled."""
    child = start_child(CHILD, folder, str(writes), step, str(turn))
    output, _ = child.communicate(timeout=90)
    lines = output.split()
    return child.returncode, [line for line in lines if line != "settled"], "settled" in lines


def check(folder: Path, acknowledged: Sequence[str], *, without: int = 0) -> None:
    """Every committed write, the acknowledged ones among them, has exactly one effect, in the order of its key."""
    with closing(sqlite3.connect(folder / "service.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        written = db.execute("SELECT id, text FROM notes ORDER BY rowid").fetchall()
        effects = db.execute("SELECT event_id, key FROM effects ORDER BY sequence").fetchall()
        assert db.execute("SELECT count(*) FROM outbox").fetchone() == (0,)
    assert set(acknowledged) <= {identifier for identifier, _ in written}
    assert len(effects) == len(written) - without
    assert set(effects) <= set(written)
    assert len(set(effects)) == len(effects)
    for key in {key for _, key in written}:
        done = [identifier for identifier, other in effects if other == key]
        assert done == [identifier for identifier, other in written if other == key and identifier in done]


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_a_step_everything_is_there_once(tmp_path: Path, step: str) -> None:
    """EVENT-1: commit, publish, confirm, mark, effect, ack: killed at each, twice, then left to finish."""
    acknowledged: list[str] = []
    killed = 0
    for turn in (1, 3):
        code, ids, settled = run(tmp_path, 15, step, turn)
        acknowledged += ids
        killed += code == -signal.SIGKILL
        assert settled is (code == 0)
    assert killed, f"the step {step!r} never came by"
    code, ids, settled = run(tmp_path, 2)
    assert (code, settled) == (0, True)
    check(tmp_path, acknowledged + ids)


def test_killed_from_outside_at_any_moment(tmp_path: Path) -> None:
    """EVENT-1: a machine does not choose its moment."""
    acknowledged: list[str] = []
    chance = random.Random(7)
    for _ in range(3):
        child = start_child(CHILD, tmp_path, "100000", "", "0")
        assert child.stdout is not None
        acknowledged += [child.stdout.readline().strip() for _ in range(chance.randint(1, 400))]
        child.kill()
        rest, _ = child.communicate(timeout=60)
        # A line that was cut off by the kill is none of ours.
        acknowledged += [line for line in rest.split() if len(line) == len("event_") + 26]
    code, ids, settled = run(tmp_path, 1)
    assert (code, settled) == (0, True)
    check(tmp_path, acknowledged + ids)


async def test_an_event_that_kills_the_process_is_given_up(tmp_path: Path) -> None:
    """EVENT-2: the delivery limit holds for a consumer that cannot say that it failed, and spares the neighbours. The
    first delivery, before there was a row to count it in, is one more."""
    acknowledged: list[str] = []
    codes = []
    for writes in (10, 0, 0, 0):
        code, ids, _ = await asyncio.to_thread(run, tmp_path, writes, POISON)
        codes.append(code)
        acknowledged += ids
    assert codes == [-signal.SIGKILL] * 4
    code, _, settled = await asyncio.to_thread(run, tmp_path, 0)
    assert (code, settled) == (0, True)
    check(tmp_path, acknowledged, without=1)
    broker = await EmbeddedBroker.open(tmp_path / "broker.db")
    (dead,) = await broker.dead_letters("tasks.task")
    await broker.close()
    assert dead.attempts == 3
    assert dead.reason.startswith("delivered 3 times and never settled")
    assert dead.message.event().data == {"text": POISON}


async def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    """A commit that was told is in the file, in each durability; what was not told is there whole or not at all."""
    for durability in ("full", "normal"):
        path = tmp_path / f"{durability}.db"
        db = SqliteDatabase(path)
        await create_tables(db)
        await db.close()
        child = start_child(
            """
            import asyncio, sys
            from taskman_server.kit.db.sqlite import SqliteDatabase
            from tests.store.support import PUT

            async def main():
                db = SqliteDatabase(sys.argv[1], durability=sys.argv[2])
                for number in range(1_000_000):
                    async with db.transaction() as tx:
                        await tx.execute(PUT, id=f"{number}a", text="")
                        await tx.execute(PUT, id=f"{number}b", text="")
                    print(number, flush=True)

            asyncio.run(main())
            """,
            path,
            durability,
        )
        assert child.stdout is not None
        for _ in range(200):
            last = int(child.stdout.readline())
        child.kill()
        child.communicate(timeout=60)
        db = SqliteDatabase(path)
        rows = await count(db)
        assert rows >= 2 * (last + 1)
        assert rows % 2 == 0
        await db.close()
