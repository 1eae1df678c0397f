"""A channel between processes goes on where replicas, connections and certificates come and go (OPS-2, OPS-4)."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from taskman_sdk import contract
from taskman_sdk.errors import DeadlineExceededError, UnavailableError
from taskman_sdk.resilience import RetryBudget, RetryPolicy
from taskman_server.kit.rpc import CallOptions
from taskman_server.kit.rpc.peers import PeerChannel
from taskman_server.kit.tls import issue
from tests.contract.peerhood import TASKS, Hood, Replica, call, open_hood, until
from tests.contract.probe import probe_service


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> contract.Service:
    return probe_service(tmp_path_factory.mktemp("probe"))


@pytest_asyncio.fixture(loop_scope="session")
async def hood(service: contract.Service, tmp_path: Path) -> AsyncIterator[Hood]:
    async with open_hood(service, tmp_path) as opened:
        yield opened


class Load:
    """Callers who never rest, and what they got."""

    def __init__(self, hood: Hood, channel: PeerChannel, name: str = "Echo", callers: int = 16) -> None:
        self.answers = 0
        self.errors: list[Exception] = []
        self._stopped = False
        self._callers = [asyncio.create_task(self._call(hood, channel, name)) for _ in range(callers)]

    async def _call(self, hood: Hood, channel: PeerChannel, name: str) -> None:
        while not self._stopped:
            try:
                if name == "Count":
                    method = hood.service.methods[name]
                    options = CallOptions(caller=TASKS, timeout=10)
                    numbers = [e.number async for e in channel.stream(method, method.input(name="p", to=3), options)]  # type: ignore[attr-defined]
                    assert numbers == [1, 2, 3]
                else:
                    await call(channel, hood.service, name, **({"text": "x"} if name == "Echo" else {}))
                self.answers += 1
            except Exception as error:
                self.errors.append(error)

    async def more(self, count: int = 200) -> None:
        """Returns after so many more answers."""
        wanted = self.answers + count
        await until(lambda: self.answers >= wanted or bool(self.errors), 30)
        assert self.errors == []

    async def stop(self) -> None:
        self._stopped = True
        await asyncio.gather(*self._callers)
        assert self.errors == []


# --- certificates ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Echo", "Count"])
async def test_certificates_are_replaced_under_load_without_an_error(hood: Hood, name: str) -> None:
    """OPS-4: both ends take new certificates; `Echo` is no call that may be made twice, so none was."""
    replica = await hood.replica(connection_age=0.3)
    ours, theirs = hood.identity("tasks"), replica.server.identity
    assert theirs is not None
    channel = hood.channel(identity=ours)
    load = Load(hood, channel, name)
    await load.more()
    for version in (2, 3):
        issue(hood.folder, "tasks")
        issue(hood.folder, "users")
        await until(lambda v=version: ours.version == v and theirs.version == v)  # type: ignore[misc]
        await load.more()
    await load.stop()
    await until(lambda: channel.targets[0].line.version == 3)


async def test_connections_that_grow_old_fail_no_call(hood: Hood) -> None:
    """OPS-2: max_connection_age spreads callers over new replicas, and nobody notices."""
    replica = await hood.replica(connection_age=0.2)
    load = Load(hood, hood.channel())
    started = time.monotonic()
    await load.more()
    while time.monotonic() - started < 1.5:
        await load.more(50)
    await load.stop()
    assert replica.calls == load.answers


# --- replicas -------------------------------------------------------------------------------------------------------


async def test_calls_spread_over_replicas(hood: Hood) -> None:
    """OPS-2: each gets its share."""
    replicas = [await hood.replica() for _ in range(3)]
    channel = hood.channel(batching=False)
    await until(lambda: all(target.line.connected for target in channel.targets))
    for _ in range(30):
        await call(channel, hood.service, text="x")
    assert [replica.calls for replica in replicas] == [10, 10, 10]


async def test_names_behind_one_address_share_the_calls(hood: Hood) -> None:
    """OPS-3: a headless service is one name with many addresses; here those of this machine."""
    replica = await hood.replica()
    port = replica.address.rpartition(":")[2]
    channel = PeerChannel("users", f"dns:///localhost:{port}", hood.identity("tasks"))
    await call(channel, hood.service, text="x")
    assert replica.calls == 1
    await channel.close()


@pytest.mark.parametrize("batching", [False, True])
async def test_a_replica_is_killed_and_no_read_fails(hood: Hood, batching: bool) -> None:
    """OPS-2, EVENT-1: what only reads is made again elsewhere."""
    first, second = await hood.replica(), await hood.replica()
    channel = hood.channel(batching=batching)
    await until(lambda: all(target.line.connected for target in channel.targets))
    load = Load(hood, channel, "Look", 64)
    await load.more()
    assert first.calls
    assert second.calls
    await first.server.stop(0)  # at once: what is under way is lost
    await load.more()
    await load.stop()


async def test_a_replica_that_drains_gets_no_new_calls(hood: Hood) -> None:
    """OPS-2: NOT_SERVING is heard before the port closes."""
    first, second = await hood.replica(), await hood.replica()
    channel = hood.channel()
    await until(lambda: all(target.line.connected for target in channel.targets))
    await first.server.serving(False)
    await until(lambda: not channel.targets[0].line.connected)
    before = first.calls
    for _ in range(10):
        await call(channel, hood.service, text="x")
    assert (first.calls, second.calls) == (before, 10)


async def test_a_write_that_may_have_been_made_is_not_made_again(hood: Hood) -> None:
    """EVENT-1: the connection is lost under a call that changes something; the caller is told."""
    replicas = [await hood.replica() for _ in range(2)]
    channel = hood.channel()
    await until(lambda: all(target.line.connected for target in channel.targets))
    pending = asyncio.create_task(call(channel, hood.service, "Hold"))
    await until(lambda: any(replica.calls for replica in replicas))
    replica, other = sorted(replicas, key=lambda each: -each.calls)
    await replica.server.stop(0)
    with pytest.raises(UnavailableError) as caught:
        await pending
    assert (caught.value.reason, caught.value.retry_after) == ("SERVICE_UNREACHABLE", 1)
    assert (replica.calls, other.calls) == (1, 0)


async def test_a_write_that_reached_nobody_is_made_elsewhere(hood: Hood) -> None:
    """OPS-2: no connection, no effect: another replica may have it."""
    gone, there = await hood.replica(), await hood.replica()
    await gone.server.stop(0)
    channel = hood.channel()
    for _ in range(6):
        await call(channel, hood.service, text="x")
    assert there.calls == 6


async def test_a_write_that_reached_nobody_is_tried_again(hood: Hood) -> None:
    """OPS-2: a single replica that starts anew costs its callers a moment, not an error."""
    replica = await hood.replica()
    await replica.server.stop(0)
    seen: list[str] = []
    channel = hood.channel(start_seconds=0, observe=lambda what, service: seen.append(what))
    with pytest.raises(UnavailableError):
        await call(channel, hood.service, text="x")
    assert seen == ["retry", "retry", "retry", "unreachable"]


async def test_a_service_that_starts_a_little_later_is_waited_for(hood: Hood) -> None:
    """OPS-2: processes of one deployment start side by side."""
    replica = await hood.replica()
    port = int(replica.address.rpartition(":")[2])
    await replica.server.stop(0)
    channel = hood.channel(policy=RetryPolicy(max_retries=0))
    assert not channel.ready()
    pending = asyncio.create_task(call(channel, hood.service, text="x"))
    await asyncio.sleep(0)
    later = await hood.replica(port)
    assert (await pending).text == "x"
    assert later.calls == 1
    assert channel.ready()


async def test_a_service_that_does_not_start_is_not_waited_for_forever(hood: Hood) -> None:
    """OPS-2."""
    replica = await hood.replica()
    await replica.server.stop(0)
    channel = hood.channel(start_seconds=0.3)
    started = time.monotonic()
    with pytest.raises(UnavailableError):
        await call(channel, hood.service, text="x")
    assert time.monotonic() - started < 3


async def test_an_address_that_swallows_everything_is_given_up_soon(hood: Hood) -> None:
    """OPS-2: a connection has two seconds to come about, whatever the caller's deadline is."""
    silent: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: silent.append(writer), "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    channel = PeerChannel("users", address, hood.identity("tasks"), start_seconds=0, policy=RetryPolicy(max_retries=0))
    started = time.monotonic()
    with pytest.raises(UnavailableError):
        await call(channel, hood.service, options=CallOptions(caller=TASKS, timeout=20), text="x")
    assert time.monotonic() - started < 10
    assert silent
    await channel.close()
    server.close()
    for writer in silent:
        writer.close()


# --- breaker and budget ---------------------------------------------------------------------------------------------


async def opened_breaker(hood: Hood, replica: Replica, seen: list[str], reset_seconds: float = 0.5) -> PeerChannel:
    """A channel whose service was away for long enough."""
    channel = hood.channel(
        start_seconds=0, policy=RetryPolicy(max_retries=0), observe=lambda what, service: seen.append(what),
        reset_seconds=reset_seconds,
    )  # fmt: skip
    await call(channel, hood.service, text="x")
    await replica.server.stop(0)
    for _ in range(40):
        with pytest.raises(UnavailableError):
            await call(channel, hood.service, text="x")
    return channel


async def test_the_breaker_opens_and_recovers_with_one_probe(hood: Hood) -> None:
    """SDK-3, OPS-2: nobody waits for a service that is away, and one call finds out that it is back."""
    replica = await hood.replica()
    seen: list[str] = []
    channel = await opened_breaker(hood, replica, seen)
    assert "refused" in seen
    later = await hood.replica(int(replica.address.rpartition(":")[2]))
    await until(channel.ready)
    opened = time.monotonic()
    await until(lambda: time.monotonic() - opened > 0.5)  # the breaker's clock
    before = len(seen)
    pending = [asyncio.create_task(call(channel, hood.service, "Hold")) for _ in range(10)]
    await asyncio.wait_for(later.probe.handlers.seen.started.wait(), 5)
    done, waiting = await asyncio.wait(pending, timeout=5, return_when=asyncio.FIRST_COMPLETED)
    while len(done) < 9:
        done, waiting = await asyncio.wait(pending, timeout=5)
    assert {type(task.exception()) for task in done} == {UnavailableError}
    assert (seen[before:], len(waiting), later.calls) == (["refused"] * 9, 1, 1)
    later.probe.handlers.release.set()
    await asyncio.gather(*waiting)
    await asyncio.gather(*(call(channel, hood.service, text="x") for _ in range(10)))
    assert later.calls == 11


async def test_a_connection_that_is_back_is_probed_at_once(hood: Hood) -> None:
    """SDK-3, OPS-2: a process that was started again is back before the breaker's time is over."""
    replica = await hood.replica()
    channel = await opened_breaker(hood, replica, [], reset_seconds=300)
    with pytest.raises(UnavailableError):
        await call(channel, hood.service, text="x")
    later = await hood.replica(int(replica.address.rpartition(":")[2]))
    await until(channel.ready)
    await call(channel, hood.service, text="x")
    assert later.calls == 1


@pytest.mark.parametrize("batching", [False, True])
async def test_one_lost_connection_is_one_failure(hood: Hood, batching: bool) -> None:
    """SDK-3: many calls were under way on it; the breaker does not shut out the replica that takes its place."""
    replica = await hood.replica()
    channel = hood.channel(batching=batching)
    pending = [asyncio.create_task(call(channel, hood.service, "Hold")) for _ in range(60)]
    await until(lambda: replica.calls == 60)
    await replica.server.stop(0)
    errors = await asyncio.gather(*pending, return_exceptions=True)
    assert {error.reason for error in errors if isinstance(error, UnavailableError)} == {"SERVICE_UNREACHABLE"}
    assert len(errors) == 60
    await hood.replica(int(replica.address.rpartition(":")[2]))
    await until(channel.ready)
    await call(channel, hood.service, text="x")


async def test_impatient_callers_do_not_open_the_breaker(hood: Hood) -> None:
    """SDK-3: a deadline that passes while others are answered says nothing about the service."""
    replica = await hood.replica()
    channel = hood.channel()
    answered = asyncio.create_task(_keep_calling(hood, channel))
    for _ in range(2):
        slow = [call(channel, hood.service, "Wait", options=CallOptions(caller=TASKS, timeout=1.05)) for _ in range(30)]
        errors = await asyncio.gather(*slow, return_exceptions=True)
        assert {type(error) for error in errors} == {DeadlineExceededError}
    answered.cancel()
    await call(channel, hood.service, text="x")
    assert replica.calls > 60


async def _keep_calling(hood: Hood, channel: PeerChannel) -> None:
    for number in itertools.count():
        await call(channel, hood.service, text=str(number))


async def test_the_retry_budget_stops_a_storm(hood: Hood) -> None:
    """SDK-3: when a service is down, its callers do not multiply."""
    replica = await hood.replica()
    seen: list[str] = []
    channel = hood.channel(
        start_seconds=0, budget=RetryBudget(capacity=5, ratio=0.1), observe=lambda what, service: seen.append(what)
    )
    await call(channel, hood.service, text="x")
    await replica.server.stop(0)
    results = await asyncio.gather(*(call(channel, hood.service, "Look") for _ in range(50)), return_exceptions=True)
    assert all(isinstance(error, UnavailableError) for error in results)
    assert seen.count("retry") == 5
