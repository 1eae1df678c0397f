"""Calls that travel together are each a call of their own, and know how much time is left (SDK-3)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from taskman_sdk import contract
from taskman_server.kit.rpc import CallOptions, Channels
from taskman_server.kit.rpc.batch import AT_ONCE
from tests.contract.peerhood import TASKS, Hood, call, open_hood, until
from tests.contract.probe import probe_service


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> contract.Service:
    return probe_service(tmp_path_factory.mktemp("probe"))


@pytest_asyncio.fixture(loop_scope="session")
async def hood(service: contract.Service, tmp_path: Path) -> AsyncIterator[Hood]:
    async with open_hood(service, tmp_path) as opened:
        yield opened


class Recorder:
    """A channel that notes how long its callers wait."""

    def __init__(self) -> None:
        self.timeouts: list[float] = []

    async def unary(self, method: contract.Method, request: Any, options: CallOptions) -> Any:
        assert options.timeout is not None
        self.timeouts.append(options.timeout)
        return method.output()

    def stream(self, method: contract.Method, request: Any, options: CallOptions) -> AsyncIterator[Any]:
        raise NotImplementedError


async def test_the_deadline_shrinks_along_the_chain(hood: Hood) -> None:
    """SDK-3: a call to a peer gets what is left of the call that it is made for."""
    replica = await hood.replica()
    line = Recorder()
    replica.probe.runtime.channels = Channels({"user": line})
    replica.probe.handlers.pass_on = True
    assert replica.probe.runtime.peer_timeout == 5
    for timeout in (2.0, 20.0):
        options = CallOptions(caller=TASKS, timeout=timeout)
        await call(hood.channel("tasks", replica), hood.service, options=options, text="x")
    assert 0 < line.timeouts[0] < 2
    assert line.timeouts[1] == 5


async def test_a_slow_call_of_a_batch_holds_up_nobody(hood: Hood) -> None:
    """SDK-3: answers come as they are done."""
    replica = await hood.replica()
    channel = hood.channel()
    await call(channel, hood.service, text="x")
    slow = asyncio.create_task(call(channel, hood.service, "Hold"))
    slower = asyncio.create_task(call(channel, hood.service, "Hold"))
    quick = [asyncio.create_task(call(channel, hood.service, text=str(n))) for n in range(5)]
    assert [answer.text for answer in await asyncio.gather(*quick)] == ["0", "1", "2", "3", "4"]
    assert channel.batched == 6
    assert not slow.done()
    assert not slower.done()
    replica.probe.handlers.release.set()
    await asyncio.gather(slow, slower)


async def test_under_load_more_travels_together(hood: Hood) -> None:
    """SDK-3: what is called while `AT_ONCE` batches have no answer waits for the first of them, and goes together."""
    replica = await hood.replica()
    channel = hood.channel()
    await call(channel, hood.service, text="x")
    batcher = channel.targets[0].line.batcher

    async def caller(turns: int) -> None:
        for _ in range(turns):  # so that no two come in the same turn
            await asyncio.sleep(0)
        for n in range(20):
            assert (await call(channel, hood.service, text=str(n))).text == str(n)

    await asyncio.gather(*(caller(turns) for turns in range(64)))
    assert replica.calls == 64 * 20 + 1
    assert batcher.batched / batcher.batches > 8


async def test_batches_without_an_answer_hold_up_nobody_for_long(hood: Hood) -> None:
    """SDK-3: of a service that is slow to answer other calls are answered all the same."""
    replica = await hood.replica()
    channel = hood.channel()
    await call(channel, hood.service, text="x")
    slow = []
    for _ in range(3 * AT_ONCE):
        slow += [asyncio.create_task(call(channel, hood.service, "Hold")) for _ in range(2)]
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        quick = await asyncio.gather(*(call(channel, hood.service, text=str(n)) for n in range(5)))
    assert [answer.text for answer in quick] == ["0", "1", "2", "3", "4"]
    assert not any(each.done() for each in slow)
    replica.probe.handlers.release.set()
    await asyncio.gather(*slow)


async def test_who_gives_up_before_the_batch_leaves_is_not_called_for(hood: Hood) -> None:
    """SDK-3: neither one who goes away nor one whose time has run out while they waited for a place."""
    replica = await hood.replica()
    channel = hood.channel()
    await call(channel, hood.service, text="x")
    first = asyncio.create_task(call(channel, hood.service, text="first"))
    gone = asyncio.create_task(call(channel, hood.service, text="gone"))
    stays = asyncio.create_task(call(channel, hood.service, text="stays"))
    await asyncio.sleep(0)
    gone.cancel()
    assert (await stays).text == "stays"
    await first
    assert gone.cancelled()
    assert replica.calls == 3


async def test_one_call_of_a_batch_is_given_up(hood: Hood) -> None:
    """SDK-3: its handler stops, those of the others go on."""
    replica = await hood.replica()
    channel = hood.channel()
    await call(channel, hood.service, text="x")
    first = asyncio.create_task(call(channel, hood.service, "Hold"))
    stays = asyncio.create_task(call(channel, hood.service, "Hold"))
    goes = asyncio.create_task(call(channel, hood.service, "Wait"))
    seen = replica.probe.handlers.seen
    await until(lambda: len(seen.calls) == 4)
    assert channel.batched == 2
    goes.cancel()
    with pytest.raises(asyncio.CancelledError):
        await goes
    await asyncio.wait_for(seen.cancelled.wait(), 5)
    assert not stays.done()
    replica.probe.handlers.release.set()
    await asyncio.gather(first, stays)


async def test_each_call_of_a_batch_is_checked_by_itself(hood: Hood) -> None:
    """GATE-2: one that is refused, one that is wrong and one that is right."""
    await hood.replica()
    channel = hood.channel()
    await call(channel, hood.service, text="x")
    calls = [
        call(channel, hood.service, text="alone"),
        call(channel, hood.service, text="fine"),
        call(channel, hood.service, "Poke"),
        call(channel, hood.service, text="x" * 21),
        call(channel, hood.service, options=CallOptions(timeout=5), text="x"),
    ]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert channel.batched == 4
    assert [getattr(each, "text", None) or getattr(each, "reason", None) for each in results] == [
        "alone", "fine", "CALLER_NOT_ALLOWED", "FIELD_INVALID", "PEER_FORWARDS",
    ]  # fmt: skip


async def test_large_requests_travel_alone_and_many_in_several_batches(hood: Hood) -> None:
    """SDK-3: no message grows without bound."""
    replica = await hood.replica()
    channel = hood.channel()
    await call(channel, hood.service, text="x")
    await asyncio.gather(*(call(channel, hood.service, text=str(n)) for n in range(300)))
    assert (replica.calls, channel.batched) == (301, 299)
    large = "p" * 100_000
    await asyncio.gather(*(call(channel, hood.service, name=large, text="x") for _ in range(5)))
    assert (replica.calls, channel.batched) == (306, 299)


async def test_a_call_that_cannot_be_put_on_the_wire_fails_alone(hood: Hood) -> None:
    """SDK-3: whatever a client got past the edge is its own misfortune, and not that of those who travel with it."""
    await hood.replica()
    channel = hood.channel()
    await call(channel, hood.service, text="x")
    odd = CallOptions(metadata={"idempotency-key": "\ud800"}, caller=TASKS, timeout=10)
    calls = [call(channel, hood.service, options=odd if n == 3 else None, text=str(n)) for n in range(8)]
    async with asyncio.timeout(5):
        answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [n for n, answer in enumerate(answers) if isinstance(answer, BaseException)] in ([], [3])
    assert channel.batched > 0


async def test_a_deadline_beyond_all_measure_harms_nobody(hood: Hood) -> None:
    """SDK-3: gRPC lets a client name 11,000 years, and they go into the deadline of the batch."""
    await hood.replica()
    channel = hood.channel()
    await call(channel, hood.service, text="x")
    long = CallOptions(caller=TASKS, timeout=99_999_999 * 3600.0)
    calls = [call(channel, hood.service, options=long if n == 3 else None, text=str(n)) for n in range(8)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [repr(answer) for answer in answers if isinstance(answer, BaseException)] == []
