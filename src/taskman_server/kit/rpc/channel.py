"""Channels: how a call reaches a service. Its caller cannot tell an in-process one from gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

import grpc
import grpc.aio

from taskman_sdk import codec, wire
from taskman_sdk.contract import Method
from taskman_sdk.errors import CancelledError, TaskManError, UnavailableError, error_class_for_number
from taskman_sdk.proto.google.rpc.status_pb import Status

if TYPE_CHECKING:
    from taskman_server.kit.rpc.call import Principal
    from taskman_server.kit.rpc.pipeline import Pipeline

__all__ = ["CallOptions", "Channel", "Channels", "GrpcChannel", "LocalChannel", "Origin"]

STATUS_DETAILS = "grpc-status-details-bin"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request came from, as the edge saw it; never what a client claims.

    Attributes:
        ip_address: the client's address.
        user_agent: the client's User-Agent.
    """

    ip_address: str = ""
    user_agent: str = ""


@dataclass(slots=True)
class CallOptions:
    """What goes with a request.

    Attributes:
        metadata: `authorization`, `idempotency-key`, `x-request-id`, `traceparent` …, keys in lower case.
        timeout: seconds until the caller gives up; None for the service's default.
        caller: the service that calls; only channels inside the deployment can set it.
        origin: where the request came from.
        trailers: is filled with what comes back beside the answer.
        repeats: is set where the service is in this process and can tell: whether a principal who asked the same at
            that time would be given the same answer, as long as nothing has to be asked of anybody for that.
        kept: is set where the service is in this process and keeps the messages that the answer is a list of: the same
            message will be the same object.
    """

    metadata: Mapping[str, str] = field(default_factory=dict)
    timeout: float | None = None
    caller: Principal | None = None
    origin: Origin = field(default_factory=Origin)
    trailers: dict[str, str] = field(default_factory=dict)
    repeats: Callable[[Principal, datetime], bool] | None = None
    kept: bool = False


class Channel(Protocol):
    """A way to one or more services."""

    async def unary(self, method: Method, request: codec.Message[Any], options: CallOptions) -> codec.Message[Any]:
        """Calls an RPC with one answer.

        Raises:
            TaskManError: what the service answered.
        """
        ...

    def stream(
        self, method: Method, request: codec.Message[Any], options: CallOptions
    ) -> AsyncIterator[codec.Message[Any]]:
        """Calls an RPC with a stream of answers; leaving the loop cancels it.

        Raises:
            TaskManError: what the service answered, while iterating.
        """
        ...


class LocalChannel:
    """To a service in this process. Messages are handed over as they are: nobody changes one that was sent."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    async def unary(self, method: Method, request: codec.Message[Any], options: CallOptions) -> codec.Message[Any]:
        """See `Channel.unary`."""
        return await self._pipeline.unary(method, request, options)

    async def stream(
        self, method: Method, request: codec.Message[Any], options: CallOptions
    ) -> AsyncIterator[codec.Message[Any]]:
        """See `Channel.stream`."""
        async for message in self._pipeline.stream(method, request, options):
            yield message


class Channels:
    """A channel for each area of the contract, as one channel."""

    def __init__(self, by_area: Mapping[str, Channel]) -> None:
        self._by_area = dict(by_area)

    def add(self, area: str, channel: Channel) -> None:
        """Adds the channel of an area."""
        self._by_area[area] = channel

    def _channel(self, method: Method) -> Channel:
        try:
            return self._by_area[method.area]
        except KeyError:
            raise UnavailableError(f"No {method.service} is connected.", reason="SERVICE_NOT_CONNECTED") from None

    async def unary(self, method: Method, request: codec.Message[Any], options: CallOptions) -> codec.Message[Any]:
        """See `Channel.unary`."""
        return await self._channel(method).unary(method, request, options)

    def stream(
        self, method: Method, request: codec.Message[Any], options: CallOptions
    ) -> AsyncIterator[codec.Message[Any]]:
        """See `Channel.stream`."""
        return self._channel(method).stream(method, request, options)


class GrpcChannel:
    """To a service over gRPC."""

    def __init__(
        self,
        target: str,
        credentials: grpc.ChannelCredentials | None = None,
        options: Sequence[tuple[str, str | int]] = (),
    ) -> None:
        """Args:
        target: `host:port`.
        credentials: TLS; plain text when None.
        options: further options of gRPC's.
        """
        options = [("grpc.max_receive_message_length", 16 << 20), *options]
        self._channel = (
            grpc.aio.insecure_channel(target, options=options)
            if credentials is None
            else grpc.aio.secure_channel(target, credentials, options=options)
        )
        self._calls: dict[str, Any] = {}

    def _metadata(self, options: CallOptions) -> tuple[tuple[str, str | bytes], ...]:
        return tuple(options.metadata.items())

    def _failed(self, error: grpc.aio.AioRpcError) -> Exception:
        return error_of_rpc(error)

    def _call(self, method: Method) -> Any:
        call = self._calls.get(method.path)
        if call is None:
            make = self._channel.unary_stream if method.streaming else self._channel.unary_unary
            output = method.output
            call = self._calls[method.path] = make(
                method.path,
                request_serializer=codec.to_binary,
                response_deserializer=lambda data: codec.from_binary(output, data),
            )
        return call

    async def unary(self, method: Method, request: codec.Message[Any], options: CallOptions) -> codec.Message[Any]:
        """See `Channel.unary`."""
        call = self._call(method)(request, timeout=options.timeout, metadata=self._metadata(options))
        try:
            reply: codec.Message[Any] = await call
        except grpc.aio.AioRpcError as error:
            raise self._failed(error) from None
        except asyncio.CancelledError:
            call.cancel()
            raise
        options.trailers.update(_text(await call.trailing_metadata()))
        return reply

    async def stream(
        self, method: Method, request: codec.Message[Any], options: CallOptions
    ) -> AsyncIterator[codec.Message[Any]]:
        """See `Channel.stream`."""
        call = self._call(method)(request, timeout=options.timeout, metadata=self._metadata(options))
        try:
            async for message in call:
                yield message
            options.trailers.update(_text(await call.trailing_metadata()))
        except grpc.aio.AioRpcError as error:
            raise self._failed(error) from None
        finally:
            call.cancel()

    async def close(self) -> None:
        """Closes the connection."""
        await self._channel.close(None)


def pairs(metadata: Any) -> Iterator[tuple[str, str | bytes]]:
    """The entries of gRPC metadata, which may be None."""
    yield from metadata or ()


def _text(metadata: Any) -> dict[str, str]:
    return {key: value for key, value in pairs(metadata) if isinstance(value, str)}


def error_of_rpc(error: grpc.aio.AioRpcError) -> TaskManError:
    """Our error for what gRPC raised, with all details where a server of ours sent them."""
    for key, value in pairs(error.trailing_metadata()):
        if key == STATUS_DETAILS:
            return wire.from_status(codec.from_binary(Status, value if isinstance(value, bytes) else value.encode()))
    number = error.code().value[0]
    return (
        error_class_for_number(number)(error.details() or error.code().name)
        if number != 1
        else CancelledError("the call was cancelled")
    )
