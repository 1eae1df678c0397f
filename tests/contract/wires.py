"""Three ways to call an RPC, with one signature and nothing of the SDK's client: what is tested is the wire itself.

A request is the JSON form of the RPC's request message, whatever the wire; `update_mask` is a string of field names
with commas. An answer is the JSON form of the answer's message. An error is a `TaskManError` put together from what
came over the wire by the code below, not by the code that the SDK and the server share.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import quote, urlencode

import grpc
import grpc.aio
import httpx
from google.rpc import error_details_pb2, status_pb2

from taskman_sdk import codec, contract
from taskman_sdk.errors import FieldViolation, TaskManError, error_class, error_class_for_number
from taskman_server.kit.rpc import CallOptions, Channels, Origin

__all__ = ["Answer", "GrpcWire", "LocalWire", "RestWire", "Wire", "message_of", "problem_error", "rest_parts"]

Json = dict[str, Any]
NO_HEADERS: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: the message, the headers or trailers (lower case), the HTTP status where there is one."""

    value: Json
    meta: Mapping[str, str] = field(default_factory=dict)
    status: int = 0


class Wire(Protocol):
    """A way to call."""

    name: str

    async def exchange(
        self, operation: str, request: Json, token: str | None = None, headers: Mapping[str, str] = NO_HEADERS
    ) -> Answer:
        """Calls an RPC with one answer."""
        ...

    def stream(
        self, operation: str, request: Json, token: str | None = None, headers: Mapping[str, str] = NO_HEADERS
    ) -> AsyncIterator[Json]:
        """Calls an RPC with a stream of answers."""
        ...

    async def call(
        self, operation: str, request: Json, token: str | None = None, headers: Mapping[str, str] = NO_HEADERS
    ) -> Json:
        """Calls any RPC; the answers of a stream stand under `stream`."""
        ...

    async def close(self) -> None:
        """Closes connections."""
        ...


class _Calls:
    async def call(
        self: Any, operation: str, request: Json, token: str | None = None, headers: Mapping[str, str] = NO_HEADERS
    ) -> Json:
        if contract.method(operation).streaming:
            return {"stream": [each async for each in self.stream(operation, request, token, headers)]}
        answer: Answer = await self.exchange(operation, request, token, headers)
        return answer.value


def message_of(method: contract.Method, request: Json) -> codec.Message[Any]:
    """The message of a request's JSON form."""
    fields = dict(request)
    mask = fields.pop("update_mask", None)
    message = codec.from_value(method.input, fields)
    if mask is not None:
        message.update_mask = codec.FieldMask(paths=[path for path in mask.split(",") if path])
    return message


def rest_parts(method: contract.Method, request: Json) -> tuple[str, str, Json | None]:
    """Verb, target and body of a call, after `google.api.http`."""
    route = method.route
    assert route is not None, f"{method.operation_id} has no REST route"
    rest = json.loads(json.dumps(request))
    path = route.template
    for parameter in route.parameters:
        *parents, leaf = parameter.split(".")
        owner = rest
        for parent in parents:
            owner = owner[parent]
        path = path.replace("{" + parameter + "}", quote(str(owner.pop(leaf)), safe=""))
    if route.body == "*":
        return route.verb, path, rest
    body = rest.pop(route.body, {}) if route.body else None
    pairs = [
        (name, str(item).lower() if isinstance(item, bool) else str(item))
        for name, value in rest.items()
        for item in (value if isinstance(value, list) else [value])
    ]
    return route.verb, path + (f"?{urlencode(pairs)}" if pairs else ""), body


def problem_error(response: httpx.Response, content: bytes | None = None) -> TaskManError:
    """The error of a problem document (RFC 9457)."""
    body = response.content if content is None else content
    assert response.headers["content-type"] == "application/problem+json", (response.status_code, body[:500])
    problem = json.loads(body)
    assert problem["status"] == response.status_code, problem
    for member in ("type", "title", "detail", "reason", "code", "request_id"):
        assert isinstance(problem[member], str), problem
        assert problem[member], problem
    assert problem["type"] == f"urn:taskman:error:{problem['reason']}"
    return error_class(problem["code"], response.status_code)(
        problem["detail"],
        reason=problem["reason"],
        metadata=problem.get("metadata"),
        field_violations=[
            FieldViolation(each["field"], each["detail"], each.get("reason", "")) for each in problem.get("errors", [])
        ],
        retry_after=problem.get("retry_after"),
        request_id=problem["request_id"],
    )


class RestWire(_Calls):
    """JSON over HTTP."""

    name = "rest"

    def __init__(self, base_url: str, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self.http = httpx.AsyncClient(base_url=base_url, transport=transport, timeout=30, trust_env=False)

    def build(
        self, operation: str, request: Json, token: str | None = None, headers: Mapping[str, str] = NO_HEADERS
    ) -> httpx.Request:
        """The HTTP request of a call."""
        verb, target, body = rest_parts(contract.method(operation), request)
        if token is not None:
            headers = {"authorization": f"Bearer {token}", **headers}
        return self.http.build_request(verb, target, json=body, headers=dict(headers))

    async def exchange(
        self, operation: str, request: Json, token: str | None = None, headers: Mapping[str, str] = NO_HEADERS
    ) -> Answer:
        response = await self.http.send(self.build(operation, request, token, headers))
        if response.status_code >= 400:
            raise problem_error(response)
        assert response.headers["content-type"] == "application/json"
        return Answer(response.json(), dict(response.headers), response.status_code)

    async def stream(
        self, operation: str, request: Json, token: str | None = None, headers: Mapping[str, str] = NO_HEADERS
    ) -> AsyncIterator[Json]:
        response = await self.http.send(self.build(operation, request, token, headers), stream=True)
        try:
            if response.status_code >= 400:
                raise problem_error(response, await response.aread())
            assert response.headers["content-type"] == "application/x-ndjson"
            async for line in response.aiter_lines():
                yield json.loads(line)
        finally:
            await response.aclose()

    async def close(self) -> None:
        await self.http.aclose()


class GrpcWire(_Calls):
    """Generic gRPC calls; messages go out and come in as bytes that are made here."""

    name = "grpc"

    def __init__(self, targets: Mapping[str, str]) -> None:
        """Args:
        targets: `host:port` of each area.
        """
        self.targets = dict(targets)
        self._channels = {area: grpc.aio.insecure_channel(target) for area, target in targets.items()}

    def channel(self, area: str) -> grpc.aio.Channel:
        """The connection to an area's server."""
        return self._channels[area]

    async def exchange(
        self, operation: str, request: Json, token: str | None = None, headers: Mapping[str, str] = NO_HEADERS
    ) -> Answer:
        method = contract.method(operation)
        return await self.send(method, codec.to_binary(message_of(method, request)), token, headers)

    async def send(
        self,
        method: contract.Method,
        data: bytes,
        token: str | None = None,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> Answer:
        """Sends bytes as the request, whatever they are."""
        call = self.channel(method.area).unary_unary(method.path, None, None)(
            data, metadata=_metadata(token, headers), timeout=30
        )
        try:
            reply = await call
        except grpc.aio.AioRpcError as error:
            raise _status_error(error) from None
        trailers = {key: value for key, value in await call.trailing_metadata() if isinstance(value, str)}
        return Answer(codec.to_value(codec.from_binary(method.output, reply)), trailers)

    async def stream(
        self, operation: str, request: Json, token: str | None = None, headers: Mapping[str, str] = NO_HEADERS
    ) -> AsyncIterator[Json]:
        method = contract.method(operation)
        data = codec.to_binary(message_of(method, request))
        call = self.channel(method.area).unary_stream(method.path, None, None)(
            data, metadata=_metadata(token, headers), timeout=30
        )
        try:
            async for reply in call:
                yield codec.to_value(codec.from_binary(method.output, reply))
        except grpc.aio.AioRpcError as error:
            raise _status_error(error) from None
        finally:
            call.cancel()

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close(None)


def _metadata(token: str | None, headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    given = {name.lower(): value for name, value in headers.items()}
    if token is not None:
        given.setdefault("authorization", f"Bearer {token}")
    return tuple(given.items())


def _status_error(error: grpc.aio.AioRpcError) -> TaskManError:
    """The error of a `google.rpc.Status`, read with Google's own classes."""
    found = error_class_for_number(error.code().value[0])(error.details() or "")
    metadata: Any = error.trailing_metadata() or ()
    trailers: dict[str, Any] = dict(metadata)
    if (details := trailers.get("grpc-status-details-bin")) is None:
        return found
    status = status_pb2.Status.FromString(details)
    assert status.code == error.code().value[0], "two codes in one answer"
    assert status.message == error.details()
    for each in status.details:
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        retry, request = error_details_pb2.RetryInfo(), error_details_pb2.RequestInfo()
        if each.Unpack(info):
            assert info.domain == "taskman"
            found.reason, found.metadata = info.reason, dict(info.metadata)
        elif each.Unpack(bad):
            found.field_violations = tuple(
                FieldViolation(v.field, v.description, v.reason) for v in bad.field_violations
            )
        elif each.Unpack(retry):
            found.retry_after = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
        elif each.Unpack(request):
            found.request_id = request.request_id
    return found


class LocalWire(_Calls):
    """Calls in process: messages over the application's own channels."""

    name = "local"

    def __init__(self, channels: Channels) -> None:
        self.channels = channels

    def _options(self, token: str | None, headers: Mapping[str, str]) -> CallOptions:
        return CallOptions(dict(_metadata(token, headers)), 30, None, Origin("127.0.0.1", "contract-tests"))

    async def exchange(
        self, operation: str, request: Json, token: str | None = None, headers: Mapping[str, str] = NO_HEADERS
    ) -> Answer:
        method = contract.method(operation)
        options = self._options(token, headers)
        reply = await self.channels.unary(method, message_of(method, request), options)
        return Answer(codec.to_value(reply), options.trailers)

    async def stream(
        self, operation: str, request: Json, token: str | None = None, headers: Mapping[str, str] = NO_HEADERS
    ) -> AsyncIterator[Json]:
        method = contract.method(operation)
        async for reply in self.channels.stream(method, message_of(method, request), self._options(token, headers)):
            yield codec.to_value(reply)

    async def close(self) -> None:
        return None
