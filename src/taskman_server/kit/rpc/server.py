"""gRPC in front of a pipeline: generic handlers made from the contract, health and reflection beside them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

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
from taskman_server.kit.identity import Authenticator
from taskman_server.kit.limits import Limiter
from taskman_server.kit.rpc.channel import STATUS_DETAILS, CallOptions, Origin
from taskman_server.kit.rpc.pipeline import Pipeline

__all__ = ["GrpcServer"]

MAX_MESSAGE: Final = 16 << 20
_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
# What of a client's metadata counts; claims of identity other than a token do not (GATE-2).
_TAKEN: Final = frozenset({"authorization", "idempotency-key", "x-request-id", "traceparent"})


class GrpcServer:
    """One service on one port."""

    def __init__(
        self,
        service: contract.Service,
        pipeline: Pipeline,
        *,
        authenticator: Authenticator | None = None,
        limiter: Limiter | None = None,
    ) -> None:
        """Args:
        service: what is served.
        pipeline: what answers.
        authenticator: tells whose bucket a call is taken from.
        limiter: the same buckets as the gateway's (GATE-3); None for no limit.
        """
        self._service = service
        self._pipeline = pipeline
        self._authenticator = authenticator
        self._limiter = limiter
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE),
                ("grpc.max_send_message_length", MAX_MESSAGE),
                # Two servers on one port would each get some of the calls.
                ("grpc.so_reuseport", 0),
            ]
        )
        handlers = {method.name: self._handler(method) for method in service.methods.values()}
        generic = grpc.method_handlers_generic_handler(service.full_name, handlers)
        self._server.add_generic_rpc_handlers((generic,))
        self._health = aio_health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (service.full_name, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server, pool=_pool(service))

    async def start(self, host: str, port: int, credentials: grpc.ServerCredentials | None = None) -> int:
        """Begins to answer, and says on which port.

        Args:
            host: the address to listen on.
            port: the port; 0 takes a free one.
            credentials: TLS; plain text when None.

        Raises:
            OSError: the port is taken.
        """
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if credentials is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, credentials)
        except RuntimeError:
            port = 0
        if port == 0:
            raise OSError(
                f"the gRPC port of {self._service.name} cannot be opened at {address}: stop what uses it, or choose "
                "another --grpc-port-base (-1 for no gRPC)"
            )
        await self._server.start()
        await self.serving(True)
        return port

    async def serving(self, ready: bool) -> None:
        """Says by the health protocol whether calls are wanted."""
        status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", self._service.full_name):
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

    async def _limit(self, method: contract.Method, options: CallOptions) -> None:
        """Takes the call from the bucket of its principal; of its address where nobody is signed in."""
        if self._limiter is None:
            return
        key = options.origin.ip_address
        scheme, _, token = options.metadata.get("authorization", "").partition(" ")
        if token and scheme.lower() == "bearer" and method.access != "public" and self._authenticator is not None:
            with contextlib.suppress(UnauthenticatedError):  # the pipeline says so
                key = (await self._authenticator.authenticate(token.strip(), _Asking(options))).id
        self._limiter.take(key)

    def _unary(self, method: contract.Method) -> Callable[[bytes, Any], Awaitable[Any]]:
        async def answer(data: bytes, context: Any) -> codec.Message[Any]:
            options = _options(context)
            try:
                await self._limit(method, options)
                reply = await self._pipeline.unary(method, _decode(method, data), options)
            except TaskManError as error:
                await _abort(context, error, options)
                raise AssertionError("abort raises") from error
            context.set_trailing_metadata(tuple(options.trailers.items()))
            return reply

        return answer

    def _stream(self, method: contract.Method) -> Callable[[bytes, Any], AsyncIterator[Any]]:
        async def answer(data: bytes, context: Any) -> AsyncIterator[codec.Message[Any]]:
            options = _options(context)
            try:
                await self._limit(method, options)
                async for reply in self._pipeline.stream(method, _decode(method, data), options):
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


def _decode(method: contract.Method, data: bytes) -> codec.Message[Any]:
    try:
        return codec.from_binary(method.input, data)
    except codec.DecodeError as error:
        raise InvalidArgumentError(
            f"The request is not a {method.input.desc().type_name}: {error}.", reason="BODY_INVALID"
        ) from None


def _options(context: Any) -> CallOptions:
    metadata: dict[str, str] = {}
    user_agent = ""
    for key, value in context.invocation_metadata() or ():
        if key in _TAKEN and isinstance(value, str):
            metadata[key] = value
        elif key == "user-agent":
            user_agent = str(value)[:500]
    return CallOptions(metadata, context.time_remaining(), None, Origin(_address(context.peer()), user_agent))


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


def _pool(service: contract.Service) -> DescriptorPool:
    """The descriptors of a service for reflection, which speaks google.protobuf."""
    pool = DescriptorPool()
    module = next(iter(service.methods.values())).input.desc().file
    seen: set[str] = set()
    health_file = descriptor_pb2.FileDescriptorProto()
    health_pb2.DESCRIPTOR.CopyToProto(health_file)
    reflection_file = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(reflection_file)
    for file in _files(module):
        if file.name not in seen:
            seen.add(file.name)
            pool.AddSerializedFile(file.proto.to_binary())
    for proto in (health_file, reflection_file):
        pool.AddSerializedFile(proto.SerializeToString())
    return pool
