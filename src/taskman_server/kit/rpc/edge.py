"""The gateway's gRPC: all services for clients on one port, each call passed on to the service that it is for."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

from taskman_sdk import codec
from taskman_sdk.contract import Method
from taskman_sdk.errors import PermissionDeniedError, TaskManError, UnauthenticatedError
from taskman_server.kit.identity import Authenticator
from taskman_server.kit.ids import request_id_of
from taskman_server.kit.rpc.channel import CallOptions, Channel
from taskman_server.kit.telemetry import Telemetry

__all__ = ["Forwarder"]


@dataclass(slots=True)
class _Asking:
    request_id: str
    traceparent: str = ""


class Forwarder:
    """Stands behind a `GrpcServer` as a pipeline would, and answers with what the service answers.

    Deadline, cancellation, trailers, error details and streams go through. A client is known by its token alone: what
    else its metadata claims was dropped by the server, and the service checks the token again (GATE-2).
    """

    def __init__(
        self, channels: Channel, authenticator: Authenticator, telemetry: Telemetry, *, request_timeout: float = 30.0
    ) -> None:
        """Args:
        channels: to the services.
        authenticator: tells a bad token from a call that no token opens.
        telemetry: measures and traces the calls.
        request_timeout: seconds for a call whose client names no deadline.
        """
        self._channels = channels
        self._authenticator = authenticator
        self._telemetry = telemetry
        self._request_timeout = request_timeout

    async def unary(self, method: Method, request: codec.Message[Any], options: CallOptions) -> codec.Message[Any]:
        """See `Answering.unary`."""
        asking = _asking(options)
        with self._telemetry.rpc(method, asking) as span:
            try:
                passed = self._passed(options, asking)
                await self._admit(method, passed)
                return await self._channels.unary(method, request, passed)
            except TaskManError as error:
                error.request_id = error.request_id or asking.request_id
                raise span.failed(error) from error.__cause__

    async def stream(
        self, method: Method, request: codec.Message[Any], options: CallOptions
    ) -> AsyncIterator[codec.Message[Any]]:
        """See `Answering.stream`."""
        asking = _asking(options)
        with self._telemetry.rpc(method, asking) as span:
            try:
                passed = self._passed(options, asking)
                await self._admit(method, passed)
                answers = cast("AsyncGenerator[codec.Message[Any]]", self._channels.stream(method, request, passed))
                async with aclosing(answers) as open_answers:
                    async for answer in open_answers:
                        yield answer
            except TaskManError as error:
                error.request_id = error.request_id or asking.request_id
                raise span.failed(error) from error.__cause__

    def _passed(self, options: CallOptions, asking: _Asking) -> CallOptions:
        """The call as it goes on: as the client's, whoever it is; the trailers come back in the same place."""
        options.trailers["x-request-id"] = asking.request_id
        metadata = {**options.metadata, "x-request-id": asking.request_id}
        if asking.traceparent:
            metadata["traceparent"] = asking.traceparent
        timeout = options.timeout if options.timeout is not None else self._request_timeout
        return CallOptions(metadata, timeout, None, options.origin, options.trailers)

    async def _admit(self, method: Method, options: CallOptions) -> None:
        """What services call among themselves does not even reach them from here."""
        if method.access != "internal":
            return
        _, _, token = options.metadata.get("authorization", "").partition(" ")
        if not token:
            raise UnauthenticatedError("This call needs a token.", reason="TOKEN_MISSING")
        await self._authenticator.authenticate(token.strip(), _Asking(options.metadata["x-request-id"]))
        raise PermissionDeniedError(
            f"{method.operation_id} is for the services of this deployment alone.", reason="INTERNAL_METHOD"
        )


def _asking(options: CallOptions) -> _Asking:
    metadata = options.metadata
    return _Asking(request_id_of(metadata.get("x-request-id", "")), metadata.get("traceparent", ""))
