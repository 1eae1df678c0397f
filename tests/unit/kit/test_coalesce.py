"""Several who want the same cost as much as one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from taskman_server.kit.coalesce import Batches, Coalescer, Gatherer


class Reader:
    """Reads that take until they are let go."""

    def __init__(self) -> None:
        self.reads: list[list[str]] = []
        self.go = asyncio.Event()
        self.fail = False

    async def read(self, keys: Sequence[str]) -> Mapping[str, str]:
        self.reads.append(list(keys))
        await self.go.wait()
        if self.fail:
            raise LookupError("the database is away")
        return {key: key.upper() for key in keys if key != "none"}

    async def one(self) -> str:
        return (await self.read(["a"]))["a"]


async def _turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_who_asks_for_the_same_at_once_shares_one_answer() -> None:
    """A hot key that ends is loaded once; whoever comes after the answer asks anew."""
    reader, coalescer = Reader(), Coalescer[str, str]()
    asking = [asyncio.create_task(coalescer.get("a", reader.one)) for _ in range(100)]
    await _turns()
    asking += [asyncio.create_task(coalescer.get("a", reader.one)) for _ in range(100)]
    await _turns()
    asking[0].cancel()
    reader.go.set()
    assert await asyncio.gather(*asking[1:]) == ["A"] * 199
    assert asking[0].cancelled()
    assert len(reader.reads) == 1
    assert await coalescer.get("a", reader.one) == "A"
    assert len(reader.reads) == 2


async def test_what_is_asked_for_within_a_turn_is_read_together() -> None:
    """Each key once; what comes later is read by itself, for the first read may be older than the question."""
    reader = Reader()
    gatherer = Gatherer(reader.read)
    first = [asyncio.create_task(gatherer.get(key)) for key in ("a", "b", "a", "none")]
    await _turns()
    second = asyncio.create_task(gatherer.get("a"))
    await _turns()
    assert reader.reads == [["a", "b", "none"], ["a"]]
    first[0].cancel()
    await _turns()
    reader.go.set()
    assert await asyncio.gather(*first[1:], second) == ["B", "A", None, "A"]


async def test_a_read_that_fails_fails_for_all_who_wait_for_it() -> None:
    """The next one is made all the same."""
    reader = Reader()
    gatherer = Gatherer(reader.read)
    reader.fail = True
    reader.go.set()
    answers = await asyncio.gather(*(gatherer.get(key) for key in "ab"), return_exceptions=True)
    assert [type(answer) for answer in answers] == [LookupError, LookupError]
    reader.fail = False
    assert await gatherer.get("a") == "A"


async def test_nobody_waits_for_a_read_that_is_cancelled_with_the_loop() -> None:
    """A read that is broken off is broken off for all who wait."""

    async def read(keys: Sequence[str]) -> Mapping[str, str]:
        raise asyncio.CancelledError

    gatherer = Gatherer(read)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(gatherer.get("a"), 5)


async def test_work_that_comes_while_some_is_done_is_done_together() -> None:
    """NOTIFY-5: in the order it came, no more than the largest batch at once."""
    batches: list[list[int]] = []
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def work(items: Sequence[int]) -> None:
        batches.append(list(items))
        begun.set()
        await may_end.wait()

    together = Batches(work, largest=4)
    doing = [asyncio.create_task(together.do(0))]
    await begun.wait()
    doing += [asyncio.create_task(together.do(number)) for number in range(1, 7)]
    await asyncio.sleep(0)
    may_end.set()
    await asyncio.gather(*doing)
    assert batches == [[0], [1, 2, 3, 4], [5, 6]]


async def test_a_batch_that_fails_fails_for_those_in_it_alone() -> None:
    """NOTIFY-5: and who gave up waiting holds up nobody."""
    done: list[int] = []

    async def work(items: Sequence[int]) -> None:
        if 1 in items:
            raise ValueError("not these")
        done.extend(items)

    together = Batches(work, largest=2)
    doing = [asyncio.create_task(together.do(number)) for number in range(4)]
    await asyncio.sleep(0)
    doing[2].cancel()
    ends = await asyncio.gather(*doing, return_exceptions=True)
    assert [type(each) for each in ends] == [ValueError, ValueError, asyncio.CancelledError, type(None)]
    assert done == [2, 3], "it is done even for whom nobody waits"
