"""Who gets through a port between services: real handshakes, one way in and every other one shut (GATE-2, OPS-2)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from taskman_sdk import codec, contract
from taskman_sdk.errors import InvalidArgumentError, PermissionDeniedError, UnauthenticatedError, UnavailableError
from taskman_server.kit.rpc import CallOptions, GrpcChannel, Origin, service_principal
from taskman_server.kit.rpc.peers import PeerChannel
from taskman_server.kit.tls import Identity, issue, make_authority
from tests.contract.peerhood import TASKS, Hood, Replica, call, open_hood
from tests.contract.probe import probe_service


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> contract.Service:
    return probe_service(tmp_path_factory.mktemp("probe"))


@pytest_asyncio.fixture(loop_scope="session")
async def hood(service: contract.Service, tmp_path: Path) -> AsyncIterator[Hood]:
    async with open_hood(service, tmp_path) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="session")
async def replica(hood: Hood) -> Replica:
    return await hood.replica()


async def refused_handshake(channel: PeerChannel, hood: Hood, replica: Replica) -> str:
    """What the connection failed with; no call has reached the handlers."""
    with pytest.raises(UnavailableError) as caught:
        await call(channel, hood.service, text="x")
    assert caught.value.reason == "SERVICE_UNREACHABLE"
    assert replica.calls == 0
    return str(caught.value.__cause__)


async def test_a_service_calls_as_itself(hood: Hood, replica: Replica) -> None:
    """OPS-2: who, in which organization, on whose behalf and from where arrive as the caller said."""
    origin = Origin("203.0.113.7", "Gerät/1.0 \u2713")
    options = CallOptions({"x-request-id": "r-1", "traceparent": "00-a-b-00"}, 10, TASKS, origin)
    answer = await call(hood.channel(), hood.service, options=options, text="x")
    (seen,) = replica.probe.handlers.seen.calls
    assert (seen.principal, seen.origin, answer.request_id) == (TASKS, origin, "r-1")
    assert answer.metadata == ["traceparent=00-a-b-00", "x-request-id=r-1"]


async def test_the_gateway_passes_on_calls_of_clients(hood: Hood, replica: Replica) -> None:
    """GATE-2: without a claim of its own; where the client is comes from the gateway."""
    options = CallOptions({"authorization": "Bearer t"}, 10, None, Origin("203.0.113.8", "curl"))
    await call(hood.channel("gateway"), hood.service, options=options, text="x")
    (seen,) = replica.probe.handlers.seen.calls
    assert (seen.principal.type, seen.origin.ip_address) == ("anonymous", "203.0.113.8")
    assert seen.metadata["authorization"] == "Bearer t"


async def test_without_a_certificate_nobody_gets_in(hood: Hood, replica: Replica) -> None:
    """OPS-2: TLS alone is not enough."""
    credentials = grpc.ssl_channel_credentials((hood.folder / "ca.crt").read_bytes())
    options = [("grpc.ssl_target_name_override", "users")]
    async with grpc.aio.secure_channel(replica.address, credentials, options=options) as channel:
        method = hood.service.methods["Echo"]
        stub = channel.unary_unary(method.path, codec.to_binary, lambda data: data)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub(method.input(name="p"), timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert replica.calls == 0


async def test_plain_text_is_not_understood(hood: Hood, replica: Replica) -> None:
    """OPS-2."""
    channel = GrpcChannel(replica.address)
    with pytest.raises(UnavailableError):
        await call(channel, hood.service, text="x")
    await channel.close()
    assert replica.calls == 0


async def test_another_authority_certifies_nobody_here(hood: Hood, replica: Replica, tmp_path: Path) -> None:
    """OPS-2: a certificate with all the right names, signed by somebody else."""
    foreign = tmp_path / "foreign"
    make_authority(foreign)
    issue(foreign, "tasks")
    ours = hood.folder / "ca.crt"
    (foreign / "both.crt").write_bytes((foreign / "ca.crt").read_bytes() + ours.read_bytes())
    identity = Identity(foreign / "tasks.crt", foreign / "tasks.key", foreign / "both.crt")
    await refused_handshake(hood.channel(identity=identity, start_seconds=0.5), hood, replica)


async def test_an_expired_certificate_is_none(hood: Hood, replica: Replica) -> None:
    """OPS-2, OPS-4."""
    issue(hood.folder, "tasks", days=1, now=datetime.now(UTC) - timedelta(days=2))
    await refused_handshake(hood.channel(start_seconds=0.5), hood, replica)


async def test_a_server_that_is_another_service_is_not_talked_to(hood: Hood, replica: Replica) -> None:
    """OPS-2: the caller looks at the server's certificate too."""
    why = await refused_handshake(hood.channel(expected="iam", start_seconds=0.5), hood, replica)
    assert "Hostname Verification Check failed" in why


async def test_a_service_speaks_for_itself_alone(hood: Hood, replica: Replica) -> None:
    """GATE-2: the certificate says who, whatever the metadata says."""
    for name in ("gateway", "authentication"):
        options = CallOptions(caller=service_principal(name, "default"), timeout=5)
        with pytest.raises(PermissionDeniedError) as caught:
            await call(hood.channel("tasks"), hood.service, options=options, text="x")
        assert caught.value.reason == "PEER_MISMATCH"
    assert replica.calls == 0


async def test_only_the_gateway_passes_on_calls(hood: Hood, replica: Replica) -> None:
    """GATE-2: a stolen token is of no use inside another service."""
    options = CallOptions({"authorization": "Bearer t"}, 5)
    with pytest.raises(PermissionDeniedError) as caught:
        await call(hood.channel("notifications"), hood.service, options=options, text="x")
    assert caught.value.reason == "PEER_FORWARDS"
    assert replica.calls == 0


async def test_a_service_that_the_contract_does_not_name_is_refused(hood: Hood, replica: Replica) -> None:
    """GATE-2: `callers` hold over the network as in process."""
    options = CallOptions(caller=service_principal("audit", "default"), timeout=5)
    with pytest.raises(PermissionDeniedError) as caught:
        await call(hood.channel("audit"), hood.service, options=options, text="x")
    assert caught.value.reason == "CALLER_NOT_ALLOWED"
    assert replica.calls == 0


async def test_a_certificate_of_no_service_is_refused(
    hood: Hood, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OPS-2: signed by our authority, and yet nobody we know."""
    monkeypatch.setattr("taskman_server.kit.tls.CALLERS", ("stranger",))
    issue(hood.folder, "stranger")
    identity = Identity.of_folder(hood.folder, "stranger")
    channel = hood.channel(identity=identity)
    monkeypatch.undo()
    with pytest.raises(UnauthenticatedError) as caught:
        await call(channel, hood.service, text="x")
    assert caught.value.reason == "PEER_UNKNOWN"
    assert replica.calls == 0


async def test_behind_a_mesh_the_metadata_says_who(hood: Hood) -> None:
    """OPS-3: plain text between process and sidecar; the contract's `callers` hold nevertheless."""
    replica = await hood.replica(mesh=True)
    channel = PeerChannel("users", replica.address)
    try:
        await call(channel, hood.service, text="x")
        assert replica.probe.handlers.seen.calls[0].principal == TASKS
        for name, kind in (("audit", PermissionDeniedError), ("stranger", UnauthenticatedError)):
            options = CallOptions(caller=service_principal(name, "default"), timeout=5)
            with pytest.raises(kind):
                await call(channel, hood.service, options=options, text="x")
    finally:
        await channel.close()


async def test_a_client_that_claims_to_be_a_service_is_a_client(hood: Hood) -> None:
    """GATE-2: on a port for clients nothing of it counts."""
    from taskman_server.kit.rpc.server import GrpcServer

    inner = await hood.replica()
    server = GrpcServer(hood.service, inner.probe.pipeline)
    channel = GrpcChannel(f"127.0.0.1:{await server.start('127.0.0.1', 0)}")
    claims = {"taskman-as": "tasks", "taskman-organization": "default", "taskman-origin-ip": "203.0.113.1"}
    await call(channel, hood.service, options=CallOptions(claims, 5), text="x")
    (seen,) = inner.probe.handlers.seen.calls
    assert (seen.principal.type, seen.origin.ip_address, dict(seen.metadata)) == ("anonymous", "127.0.0.1", {})
    await channel.close()
    await server.stop(0)


@pytest.mark.parametrize("size", [9_000, 20_000, 60_000])
async def test_what_is_too_long_is_refused_by_the_service_in_its_words(hood: Hood, replica: Replica, size: int) -> None:
    """GATE-5: an HTTP head may have 64 KiB. gRPC would refuse what is longer than 8 KiB on its way between processes,
    as an exhausted resource, which clients try again."""
    channel = hood.channel()
    for name, refused in (("idempotency-key", True), ("traceparent", False), ("authorization", False)):
        options = CallOptions(metadata={name: "k" * size}, caller=TASKS, timeout=10)
        if refused:
            with pytest.raises(InvalidArgumentError, match="Idempotency-Key is 1 to 255"):
                await call(channel, hood.service, options=options, text="x")
        else:
            await call(channel, hood.service, options=options, text="x")
