"""gRPC over grpc.aio with generic calls: the same messages in binary, status details as errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

import grpc
import grpc.aio

from taskman_sdk import codec, wire
from taskman_sdk.contract import AREAS, Method
from taskman_sdk.errors import DeadlineExceededError, TaskManError, UnavailableError, error_class_for_number
from taskman_sdk.proto.google.rpc.status_pb import Status

__all__ = ["DEFAULT_PORT", "GrpcTransport"]

# The first of the services' ports; the others follow in the order of `contract.AREAS`.
DEFAULT_PORT: Final = 50051
# The port of a gateway, which has all services on it.
GATEWAY_PORT: Final = 50050
OPTIONS: Final = (
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.max_send_message_length", 64 * 1024 * 1024),
    # Retries are ours, with one budget for all transports: nobody's service config brings others. What gRPC repeats by
    # itself are calls that a server which closes an old connection has told us it did not begin.
    ("grpc.service_config_disable_resolution", 1),
)


class GrpcTransport:
    """Calls over gRPC, one channel an address.

    Args:
        base_url: `grpc://host:50051` or, with TLS, `grpcs://…`: the authentication service is on this port, the
            others on the ports that follow. With `?ports=one` all services are on the one port, as at the gateway of a
            cluster: `grpc://host:50050?ports=one`.
        targets: an address `host:port` for each area instead, for example `{"task": "tasks:50055"}`.
        credentials: channel credentials (own roots, mTLS); `grpcs://` alone takes the system's roots.

    Raises:
        ValueError: the URL says something else behind `?` than `ports=one` or `ports=seven`.
    """

    def __init__(
        self,
        base_url: str = "",
        *,
        targets: Mapping[str, str] | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.query not in ("", "ports=one", "ports=seven"):
            raise ValueError(f"{base_url!r}: only `ports=one` or `ports=seven` can stand behind `?`")
        step = 0 if parts.query == "ports=one" else 1
        host, port = parts.hostname or "", parts.port or (DEFAULT_PORT if step else GATEWAY_PORT)
        shown = f"[{host}]" if ":" in host else host
        self._targets = {area: f"{shown}:{port + offset * step}" for offset, area in enumerate(AREAS)} if host else {}
        self._targets.update(targets or {})
        self.host = f"{shown}:{port}" if host else ",".join(sorted(set(self._targets.values())))
        self._credentials = credentials
        if credentials is None and parts.scheme == "grpcs":
            self._credentials = grpc.ssl_channel_credentials()
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._calls: dict[str, Any] = {}

    async def unary(
        self, method: Method, request: codec.Message[Any], *, metadata: Mapping[str, str], timeout: float
    ) -> codec.Message[Any]:
        """See `Transport.unary`."""
        try:
            answer: codec.Message[Any] = await self._call(method)(
                request, timeout=timeout, metadata=tuple(metadata.items())
            )
        except grpc.aio.AioRpcError as error:
            raise _error(error, self._targets[method.area], method, timeout) from error
        return answer

    async def stream(
        self, method: Method, request: codec.Message[Any], *, metadata: Mapping[str, str], timeout: float
    ) -> AsyncIterator[codec.Message[Any]]:
        """See `Transport.stream`."""
        call = self._call(method)(request, timeout=timeout, metadata=tuple(metadata.items()))
        try:
            async for message in call:
                yield message
        except grpc.aio.AioRpcError as error:
            raise _error(error, self._targets[method.area], method, timeout) from error
        finally:
            call.cancel()

    async def close(self) -> None:
        """Closes the channels; calls under way are cancelled."""
        channels, self._channels = list(self._channels.values()), {}
        self._calls.clear()
        await asyncio.gather(*(channel.close(None) for channel in channels))

    def _call(self, method: Method) -> Any:
        if (call := self._calls.get(method.path)) is None:
            channel = self._channel(method.area)
            make = channel.unary_stream if method.streaming else channel.unary_unary
            call = self._calls[method.path] = make(
                method.path,
                request_serializer=codec.to_binary,
                response_deserializer=partial(codec.from_binary, method.output),
            )
        return call

    def _channel(self, area: str) -> grpc.aio.Channel:
        target = self._targets.get(area)
        if target is None:
            raise ValueError(f"no address for the {area} service; add {area!r} to `targets`")
        if target not in self._channels:
            self._channels[target] = (
                grpc.aio.insecure_channel(target, options=OPTIONS)
                if self._credentials is None
                else grpc.aio.secure_channel(target, self._credentials, options=OPTIONS)
            )
        return self._channels[target]


def _error(error: grpc.aio.AioRpcError, target: str, method: Method, timeout: float) -> TaskManError:
    metadata = [*(error.initial_metadata() or ()), *(error.trailing_metadata() or ())]
    trailers: dict[str, Any] = {str(key): value for key, value in metadata}
    request_id = str(trailers.get("x-request-id", ""))
    details = trailers.get("grpc-status-details-bin")
    found: TaskManError | None = None
    if isinstance(details, bytes):
        try:
            found = wire.from_status(codec.from_binary(Status, details))
        except codec.DecodeError:
            found = None
    if found is None:
        number = int(error.code().value[0])
        text = error.details() or ""
        if number == DeadlineExceededError.number:
            text = f"{target} did not answer {method.operation_id} within {timeout:.3g} s."
        elif number == UnavailableError.number and not trailers:
            text = f"{target} cannot be reached: {text}. Is the server running there?"
        found = error_class_for_number(number)(text or f"{target} answered {error.code().name}")
    found.request_id = found.request_id or request_id
    return found
