"""A caller cannot tell a channel in process from one over gRPC (DESIGN "How a request flows", SDK-2)."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from taskman_sdk import contract
from taskman_sdk.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    UnauthenticatedError,
)
from taskman_server.kit.rpc import CallOptions, Channel, Channels, GrpcChannel, LocalChannel
from taskman_server.kit.rpc.edge import Forwarder
from taskman_server.kit.rpc.peers import PeerChannel
from taskman_server.kit.rpc.server import GrpcServer
from taskman_server.kit.tls import Identity, issue, make_authority
from tests.contract.probe import ERROR, Probe, probe_service, running_probe


@dataclass(slots=True)
class Line:
    """A probe and a channel to it."""

    probe: Probe
    channel: Channel

    def request(self, name: str, **fields: Any) -> tuple[contract.Method, Any]:
        method = self.probe.service.methods[name]
        return method, method.input(name="p", **fields)

    async def unary(self, name: str, options: CallOptions | None = None, **fields: Any) -> Any:
        method, request = self.request(name, **fields)
        return await self.channel.unary(method, request, options or CallOptions())

    def stream(self, name: str, options: CallOptions | None = None, **fields: Any) -> AsyncIterator[Any]:
        method, request = self.request(name, **fields)
        return self.channel.stream(method, request, options or CallOptions())


class Crowd:
    """A channel on which each unary call travels with two others, as a batch."""

    def __init__(self, peer: PeerChannel, service: contract.Service) -> None:
        self._peer = peer
        self._echo = service.methods["Echo"]

    async def _other(self, number: int) -> str:
        request = self._echo.input(name="p", text=f"{number}")
        answer = await self._peer.unary(self._echo, request, CallOptions(timeout=5))
        return answer.text  # type: ignore[attr-defined, no-any-return]

    async def unary(self, method: contract.Method, request: Any, options: CallOptions) -> Any:
        before = self._peer.batched
        others = [asyncio.create_task(self._other(number)) for number in range(3)]  # the first one goes ahead alone
        await asyncio.sleep(0)
        try:
            return await self._peer.unary(method, request, options)
        finally:
            assert self._peer.batched == before + 3
            assert await asyncio.gather(*others) == ["0", "1", "2"]

    def stream(self, method: contract.Method, request: Any, options: CallOptions) -> AsyncIterator[Any]:
        return self._peer.stream(method, request, options)


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> contract.Service:
    return probe_service(tmp_path_factory.mktemp("probe"))


@pytest_asyncio.fixture(params=["local", "grpc", "peer", "batch", "edge"], loop_scope="session")
async def line(request: pytest.FixtureRequest, service: contract.Service, tmp_path: Path) -> AsyncIterator[Line]:
    async with running_probe(service, tmp_path) as probe, AsyncExitStack() as stack:
        if request.param == "local":
            yield Line(probe, LocalChannel(probe.pipeline))
            return
        server = GrpcServer(service, probe.pipeline)
        peer: PeerChannel | None = None
        if request.param != "grpc":
            make_authority(tmp_path)
            for each in ("users", "gateway"):
                issue(tmp_path, each)
            identity = Identity.of_folder(tmp_path, "users")
            server = GrpcServer(service, probe.pipeline, trusted=True, identity=identity)
        address = f"127.0.0.1:{await server.start('127.0.0.1', 0)}"
        stack.push_async_callback(server.stop, 0)
        if request.param != "grpc":
            peer = PeerChannel("users", address, Identity.of_folder(tmp_path, "gateway"))
            stack.push_async_callback(peer.close)
        if request.param == "edge":
            assert peer is not None
            channels = Channels({"probe": peer})
            edge = GrpcServer([service], Forwarder(channels, probe.runtime.authenticator, probe.runtime.telemetry))
            address = f"127.0.0.1:{await edge.start('127.0.0.1', 0)}"
            stack.push_async_callback(edge.stop, 0)
            peer = None
        if peer is None:
            channel = GrpcChannel(address)
            stack.push_async_callback(channel.close)
            yield Line(probe, channel)
        else:
            await peer.unary(service.methods["Echo"], service.methods["Echo"].input(name="p"), CallOptions())
            probe.handlers.seen.calls.clear()
            yield Line(probe, Crowd(peer, service) if request.param == "batch" else peer)


async def collect(answers: AsyncIterator[Any], into: list[int]) -> None:
    """Keeps what comes, also when an error ends it."""
    async for each in answers:
        into.append(each.number)  # noqa: PERF401 - a comprehension would lose what came before the error


async def happens(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), 5)


async def test_an_answer_comes_with_its_trailers(line: Line) -> None:
    """SDK-2: message and trailers arrive as the handler made them."""
    options = CallOptions({"x-request-id": "req-1"})
    answer = await line.unary("Echo", options, text="ß", times=3)
    assert answer.text == "ßßß"
    assert answer.request_id == "req-1"
    assert options.trailers["x-probe"] == "trailer"
    assert options.trailers["x-request-id"] == "req-1"


async def test_metadata_reaches_the_handler(line: Line) -> None:
    """SDK-2: what a call may say beside its message."""
    given = {"authorization": "Bearer t", "idempotency-key": "k", "x-request-id": "r", "traceparent": "00-a-b-00"}
    answer = await line.unary("Echo", CallOptions(given), text="x")
    assert answer.metadata == [f"{key}={value}" for key, value in sorted(given.items())]


async def test_an_error_keeps_all_its_details(line: Line) -> None:
    """GATE-1: class, message, reason, metadata, fields and Retry-After cross the channel."""
    with pytest.raises(FailedPreconditionError) as caught:
        await line.unary("Fail", CallOptions({"x-request-id": "req-2"}))
    error = caught.value
    assert (error.message, error.reason, error.metadata) == (ERROR.message, ERROR.reason, ERROR.metadata)
    assert error.field_violations == ERROR.field_violations
    assert error.retry_after == ERROR.retry_after
    assert error.request_id == "req-2"


async def test_an_error_is_of_the_public_tree(line: Line) -> None:
    """SDK-4: a kind of error that a service has for itself reaches a caller as what it is a kind of; it pickles."""
    method = line.probe.service.methods["Fail"]
    with pytest.raises(FailedPreconditionError) as caught:
        await line.channel.unary(method, method.input(name="own"), CallOptions())
    assert type(caught.value) is FailedPreconditionError
    assert (caught.value.reason, caught.value.metadata) == (ERROR.reason, ERROR.metadata)
    assert pickle.loads(pickle.dumps(caught.value)) == caught.value


async def test_a_fault_says_nothing_of_itself(line: Line) -> None:
    """GATE-1: the caller gets a request id, the log gets the traceback."""
    with pytest.raises(InternalError) as caught:
        await line.unary("Fail", CallOptions({"x-request-id": "req-3"}), fault=True)
    assert "secret" not in str(caught.value)
    assert caught.value.reason == "INTERNAL"
    assert caught.value.request_id == "req-3"


async def test_a_rule_of_the_contract_refuses_with_the_field(line: Line) -> None:
    """GATE-4: validation happens behind the channel, whatever the channel."""
    with pytest.raises(InvalidArgumentError) as caught:
        await line.unary("Echo", text="x" * 21, times=-1)
    assert [(each.field, each.reason) for each in caught.value.field_violations] == [
        ("text", "string.max_len"),
        ("times", "int32.gte"),
    ]


async def test_a_deadline_ends_the_call_on_both_sides(line: Line) -> None:
    """SDK-3: the caller is told in time, and the handler stops working."""
    with pytest.raises(DeadlineExceededError):
        await line.unary("Wait", CallOptions(timeout=0.2))
    await happens(line.probe.handlers.seen.cancelled)


async def test_a_caller_who_goes_away_cancels_the_handler(line: Line) -> None:
    """SDK-3: no work for nobody."""
    call = asyncio.create_task(line.unary("Wait", CallOptions(timeout=20)))
    await happens(line.probe.handlers.seen.started)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await happens(line.probe.handlers.seen.cancelled)


async def test_a_stream_comes_in_order_with_its_trailers(line: Line) -> None:
    """SDK-5: streams."""
    options = CallOptions()
    numbers = [each.number async for each in line.stream("Count", options, to=200)]
    assert numbers == list(range(1, 201))
    assert options.trailers["x-probe"] == "trailer"


async def test_an_empty_stream_ends(line: Line) -> None:
    """SDK-5: no answer is an answer."""
    assert [each async for each in line.stream("Count", to=0)] == []


async def test_an_error_in_the_middle_of_a_stream_comes_after_what_was_sent(line: Line) -> None:
    """SDK-5, GATE-1: nothing that was sent is lost, and the error keeps its details."""
    numbers: list[int] = []
    with pytest.raises(FailedPreconditionError) as caught:
        await collect(line.stream("Count", to=3, fail=True), numbers)
    assert numbers == [1, 2, 3]
    assert caught.value.reason == ERROR.reason
    assert caught.value.field_violations == ERROR.field_violations


async def test_leaving_a_stream_cancels_the_handler(line: Line) -> None:
    """SDK-5: a reader who has seen enough."""
    answers = line.stream("Count", to=3, wait=True)
    async for each in answers:
        if each.number == 3:
            break
    await answers.aclose()  # type: ignore[attr-defined]
    await happens(line.probe.handlers.seen.cancelled)


async def test_a_deadline_ends_a_stream(line: Line) -> None:
    """SDK-3, SDK-5: the deadline is for all of it."""
    numbers: list[int] = []
    with pytest.raises(DeadlineExceededError):
        await collect(line.stream("Count", CallOptions(timeout=0.3), to=2, wait=True), numbers)
    assert numbers == [1, 2]
    await happens(line.probe.handlers.seen.cancelled)


async def test_a_call_that_needs_a_token_and_has_none_is_refused(line: Line) -> None:
    """GATE-2: services check for themselves."""
    with pytest.raises(UnauthenticatedError) as caught:
        await line.unary("Poke")
    assert caught.value.reason == "TOKEN_MISSING"
