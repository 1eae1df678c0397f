"""gRPC in front of pipelines: generic handlers made from the contract, health and reflection beside them.

One class for three kinds of port: a service for clients (embedded shape), a service for its peers (`trusted`, with
certificates on both sides or behind a mesh), and all services for clients at the gateway (with a `Forwarder`).
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import grpc
import grpc.aio
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import _async as aio_health
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2
from protobuf import DescFile

from taskman_sdk import codec, contract, wire
from taskman_sdk.errors import InvalidArgumentError, TaskManError, UnauthenticatedError
from taskman_server.kit.forwarded import HEADER, Networks, client_address
from taskman_server.kit.identity import Authenticator
from taskman_server.kit.limits import Limiter
from taskman_server.kit.rpc import claims
from taskman_server.kit.rpc.channel import STATUS_DETAILS, CallOptions, Origin

if TYPE_CHECKING:
    from taskman_server.kit.tls import Identity

__all__ = ["Answering", "GrpcServer"]

MAX_MESSAGE: Final = 16 << 20
_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
CONNECTION_AGE: Final = 300.0
_STREAMS: Final = 1000
_PEER_STREAMS: Final = 1_000_000
_PING_SECONDS: Final = 10


class Answering(Protocol):
    """What stands behind a port: a service's `Pipeline`, or a `Forwarder` to several services."""

    async def unary(
        self, method: contract.Method, request: codec.Message[Any], options: CallOptions
    ) -> codec.Message[Any]:
        """Answers an RPC with one answer; raises `TaskManError` alone."""
        ...

    def stream(
        self, method: contract.Method, request: codec.Message[Any], options: CallOptions
    ) -> AsyncIterator[codec.Message[Any]]:
        """Answers an RPC with a stream of answers; raises `TaskManError` alone."""
        ...


class GrpcServer:
    """One service, or several, on one port."""

    def __init__(
        self,
        service: contract.Service | Sequence[contract.Service],
        answering: Answering,
        *,
        authenticator: Authenticator | None = None,
        limiter: Limiter | None = None,
        trusted: bool = False,
        identity: Identity | None = None,
        connection_age: float | None = None,
        proxies: Networks = (),
    ) -> None:
        """Args:
        service: what is served.
        answering: what answers.
        authenticator: tells whose bucket a call is taken from.
        limiter: the same buckets as the gateway's (GATE-3); None for no limit.
        trusted: the port is for our own processes: what they say beside a call counts (`kit.rpc.claims`).
        identity: TLS that asks for a certificate; None on a `trusted` port leaves that to a mesh.
        connection_age: seconds after which a connection is replaced, so that new replicas get their share; None for
            five minutes on a `trusted` port, and never on others.
        proxies: the networks whose `x-forwarded-for` is believed, on a port for clients.
        """
        services = [service] if isinstance(service, contract.Service) else list(service)
        self._names = [each.full_name for each in services]
        self._shown = services[0].name if len(services) == 1 else "the services"
        self._answering = answering
        self._authenticator = authenticator
        self._limiter = limiter
        self._trusted = trusted
        self._proxies = proxies
        self.identity = identity
        if connection_age is None and trusted:
            connection_age = CONNECTION_AGE
        self._server = grpc.aio.server(options=_server_options(connection_age, trusted=trusted))
        for each in services:
            handlers = {method.name: self._handler(method) for method in each.methods.values()}
            generic = grpc.method_handlers_generic_handler(each.full_name, handlers)
            self._server.add_generic_rpc_handlers((generic,))
        if trusted:
            from taskman_server.kit.rpc.batch import PeerCalls  # the embedded shape does without

            methods = {method.path: method for each in services for method in each.methods.values()}
            self._server.add_generic_rpc_handlers((PeerCalls(methods, self._answer_item, self._peer).handler(),))
        self._health = aio_health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server, pool=_pool(services))

    async def start(self, host: str, port: int, credentials: grpc.ServerCredentials | None = None) -> int:
        """Begins to answer, and says on which port.

        Args:
            host: the address to listen on.
            port: the port; 0 takes a free one.
            credentials: TLS; that of the identity when None, and plain text where there is none.

        Raises:
            OSError: the port is taken.
        """
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if credentials is None and self.identity is not None:
            credentials = self.identity.server_credentials()
        try:
            if credentials is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, credentials)
        except RuntimeError:
            port = 0
        if port == 0:
            raise OSError(
                f"the gRPC port of {self._shown} cannot be opened at {address}: stop what uses it, or choose "
                "another --grpc-port-base (-1 for no gRPC)"
            )
        await self._server.start()
        await self.serving(True)
        return port

    async def serving(self, ready: bool) -> None:
        """Says by the health protocol whether calls are wanted; False when we are about to stop (drain)."""
        status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *self._names):
            await self._health.set(name, status)

    async def stop(self, grace: float) -> None:
        """Takes no more calls, and gives those under way `grace` seconds."""
        await self.serving(False)
        await self._server.stop(grace)

    def _handler(self, method: contract.Method) -> grpc.RpcMethodHandler[bytes, bytes]:
        # Decoding is ours, so that a bad message is answered with our error and not with a bare INTERNAL.
        serialize = codec.to_binary
        if method.streaming:
            return grpc.unary_stream_rpc_method_handler(self._stream(method), None, serialize)
        return grpc.unary_unary_rpc_method_handler(self._unary(method), None, serialize)

    async def _answer_item(self, method: contract.Method, data: bytes, options: CallOptions) -> codec.Message[Any]:
        return await self._answering.unary(method, decode(method, data), options)

    def _options(self, context: Any) -> CallOptions:
        if not self._trusted:
            return _of_client(context, self._proxies)
        sent = claims.read(context.invocation_metadata() or ())
        return claims.understand(sent, context.time_remaining(), self._peer(context))

    def _peer(self, context: Any) -> str | None:
        """The service at the other end, by its certificate; None where a mesh looks after that."""
        if self.identity is None:
            return None
        return self.identity.peer(context.auth_context())

    async def _limit(self, method: contract.Method, options: CallOptions) -> None:
        """Takes the call from the bucket of its principal; of its address where nobody is signed in."""
        if self._limiter is None:
            return
        key = options.origin.ip_address
        scheme, _, token = options.metadata.get("authorization", "").partition(" ")
        if token and scheme.lower() == "bearer" and method.access != "public" and self._authenticator is not None:
            with contextlib.suppress(UnauthenticatedError):  # the pipeline says so
                key = (await self._authenticator.authenticate(token.strip(), _Asking(options))).id
        self._limiter.take(key) or await self._limiter.more(key)

    def _unary(self, method: contract.Method) -> Callable[[bytes, Any], Awaitable[Any]]:
        async def answer(data: bytes, context: Any) -> codec.Message[Any]:
            options = CallOptions()
            try:
                options = self._options(context)
                await self._limit(method, options)
                reply = await self._answering.unary(method, decode(method, data), options)
            except TaskManError as error:
                await _abort(context, error, options)
                raise AssertionError("abort raises") from error
            context.set_trailing_metadata(tuple(options.trailers.items()))
            return reply

        return answer

    def _stream(self, method: contract.Method) -> Callable[[bytes, Any], AsyncIterator[Any]]:
        async def answer(data: bytes, context: Any) -> AsyncIterator[codec.Message[Any]]:
            options = CallOptions()
            try:
                options = self._options(context)
                await self._limit(method, options)
                async for reply in self._answering.stream(method, decode(method, data), options):
                    yield reply
            except TaskManError as error:
                await _abort(context, error, options)
            context.set_trailing_metadata(tuple(options.trailers.items()))

        return answer


@dataclass(frozen=True, slots=True)
class _Asking:
    options: CallOptions

    @property
    def request_id(self) -> str:
        return self.options.metadata.get("x-request-id", "")


def _server_options(connection_age: float | None, *, trusted: bool) -> list[tuple[str, int]]:
    options = [
        *(claims.METADATA_LIMITS if trusted else ()),
        ("grpc.max_receive_message_length", MAX_MESSAGE),
        ("grpc.max_send_message_length", MAX_MESSAGE),
        # Two servers on one port would each get some of the calls.
        ("grpc.so_reuseport", 0),
    ]
    if connection_age is not None:
        options += [
            # All clients of a gateway share its one connection to a service: who is slow must not use it up.
            ("grpc.max_concurrent_streams", _PEER_STREAMS if trusted else _STREAMS),
            ("grpc.max_connection_age_ms", int(connection_age * 1000)),
            ("grpc.max_connection_age_grace_ms", 300_000),  # the longest deadline there is
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", _PING_SECONDS * 1000),
        ]
    return options


def decode(method: contract.Method, data: bytes) -> codec.Message[Any]:
    """The request of a call.

    Raises:
        InvalidArgumentError: the bytes are none.
    """
    try:
        return codec.from_binary(method.input, data)
    except codec.DecodeError as error:
        raise InvalidArgumentError(
            f"The request is not a {method.input.desc().type_name}: {error}.", reason="BODY_INVALID"
        ) from None


def _of_client(context: Any, proxies: Networks) -> CallOptions:
    metadata: dict[str, str] = {}
    user_agent = ""
    hops: list[str] = []
    for key, value in context.invocation_metadata() or ():
        if key in claims.TAKEN and isinstance(value, str):
            metadata[key] = value
        elif key == "user-agent":
            user_agent = str(value)[:500]
        elif key == HEADER:
            hops.append(str(value))
    address = client_address(_address(context.peer()), ",".join(hops), proxies)
    return CallOptions(metadata, context.time_remaining(), None, Origin(address, user_agent))


def _address(peer: str) -> str:
    # `ipv4:127.0.0.1:53412`, `ipv6:%5B::1%5D:53412`
    address = peer.partition(":")[2].rpartition(":")[0]
    return address.replace("%5B", "").replace("%5D", "").strip("[]")


async def _abort(context: Any, error: TaskManError, options: CallOptions) -> None:
    trailers = [*options.trailers.items(), (STATUS_DETAILS, codec.to_binary(wire.to_status(error)))]
    await context.abort(_CODES[error.number], error.message, tuple(trailers))


def _files(file: DescFile) -> Iterable[DescFile]:
    for dependency in file.dependencies:
        yield from _files(dependency)
    yield file


def _pool(services: Iterable[contract.Service]) -> DescriptorPool:
    """The descriptors of the services for reflection, which speaks google.protobuf."""
    pool = DescriptorPool()
    modules = [next(iter(service.methods.values())).input.desc().file for service in services]
    seen: set[str] = set()
    health_file = descriptor_pb2.FileDescriptorProto()
    health_pb2.DESCRIPTOR.CopyToProto(health_file)
    reflection_file = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(reflection_file)
    for file in (each for module in modules for each in _files(module)):
        if file.name not in seen:
            seen.add(file.name)
            pool.AddSerializedFile(file.proto.to_binary())
    for proto in (health_file, reflection_file):
        pool.AddSerializedFile(proto.SerializeToString())
    return pool
