"""A server of a few lines, reachable by every transport: what it answers is said by the test."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import httpx

from taskman_sdk import codec, contract, wire
from taskman_sdk.errors import TaskManError
from taskman_sdk.transports import Transport
from taskman_sdk.transports.grpc import GrpcTransport
from taskman_sdk.transports.http import HttpTransport
from taskman_sdk.transports.local import LocalTransport

Message = codec.Message[Any]
TRANSPORTS = ("http", "grpc", "local")


@dataclass
class Seen:
    """One attempt that reached the server."""

    method: contract.Method
    metadata: Mapping[str, str]
    request: Message | None = None


@dataclass
class Stage:
    """What the server does: `answer` for unary calls, `answers` for streams."""

    answer: Callable[[Seen], Awaitable[Message]] | None = None
    answers: Callable[[Seen], AsyncIterator[Message]] | None = None
    seen: list[Seen] = field(default_factory=list)

    async def unary(self, seen: Seen) -> Message:
        self.seen.append(seen)
        assert self.answer is not None
        return await self.answer(seen)

    def stream(self, seen: Seen) -> AsyncIterator[Message]:
        self.seen.append(seen)
        assert self.answers is not None
        return self.answers(seen)


def _find(request: httpx.Request) -> contract.Method:
    for method in contract.methods():
        if method.route is not None and method.route.verb == request.method:
            pattern = re.sub(r"\\\{[^}]+\\\}", "[^/:]+", re.escape(method.route.template))
            if re.fullmatch(pattern, request.url.path):
                return method
    raise AssertionError(f"no RPC has the route {request.method} {request.url.path}")


def mock(stage: Stage) -> httpx.MockTransport:
    """The stage behind httpx."""

    async def handle(request: httpx.Request) -> httpx.Response:
        seen = Seen(_find(request), dict(request.headers))
        headers = {"x-request-id": "req_of_server"}
        try:
            if not seen.method.streaming:
                answer = await stage.unary(seen)
                return httpx.Response(200, headers=headers, content=codec.to_json(answer))
            items = stage.stream(seen)
            first = await anext(items, None)
        except TaskManError as error:
            kind = headers | {"content-type": "application/problem+json"}
            return httpx.Response(error.http_status, headers=kind, content=json.dumps(wire.to_problem(error)))

        async def lines() -> AsyncIterator[bytes]:
            try:
                if first is not None:
                    yield codec.to_json(first) + b"\n"
                async for item in items:
                    yield codec.to_json(item) + b"\n"
            except TaskManError as error:
                yield json.dumps({"error": wire.to_problem(error)}, separators=(",", ":")).encode() + b"\n"

        return httpx.Response(200, headers=headers, content=lines())

    return httpx.MockTransport(handle)


class _Generic(grpc.GenericRpcHandler):
    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._methods = {method.path: method for method in contract.methods()}

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        method = self._methods[str(details.method)]
        metadata = {str(key): str(value) for key, value in details.invocation_metadata}

        async def fail(error: TaskManError, context: Any) -> None:
            details_bin = ("grpc-status-details-bin", codec.to_binary(wire.to_status(error)))
            context.set_trailing_metadata((details_bin, ("x-request-id", "req_of_server")))
            codes = {code.value[0]: code for code in grpc.StatusCode}
            await context.abort(codes[error.number], error.message)

        async def unary(request: Message, context: Any) -> Message | None:
            try:
                return await self._stage.unary(Seen(method, metadata, request))
            except TaskManError as error:
                await fail(error, context)
                return None

        async def stream(request: Message, context: Any) -> AsyncIterator[Message]:
            try:
                async for item in self._stage.stream(Seen(method, metadata, request)):
                    yield item
            except TaskManError as error:
                await fail(error, context)

        coders = {
            "request_deserializer": lambda data: codec.from_binary(method.input, data),
            "response_serializer": codec.to_binary,
        }
        if method.streaming:
            return grpc.unary_stream_rpc_method_handler(stream, **coders)
        return grpc.unary_unary_rpc_method_handler(unary, **coders)


class _Channel:
    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    async def unary(self, method: contract.Method, request: Message, *, metadata: Any, timeout: float) -> Message:
        return await self._stage.unary(Seen(method, metadata, request))

    def stream(self, method: contract.Method, request: Message, *, metadata: Any, timeout: float) -> AsyncIterator[Any]:
        return self._stage.stream(Seen(method, metadata, request))


@asynccontextmanager
async def reach(stage: Stage, kind: str) -> AsyncIterator[Transport]:
    """A transport of that kind to the stage."""
    if kind == "http":
        async with httpx.AsyncClient(transport=mock(stage)) as client:
            yield HttpTransport("http://tasks.test", client=client)
    elif kind == "local":
        yield LocalTransport(_Channel(stage))
    else:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((_Generic(stage),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        transport = GrpcTransport(targets=dict.fromkeys(contract.AREAS, f"127.0.0.1:{port}"))
        try:
            yield transport
        finally:
            await transport.close()
            await server.stop(None)
