"""The gateway as an ASGI application: one table from route to RPC, and as little as possible between."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from starlette.types import ASGIApp

from taskman_sdk import codec, contract
from taskman_sdk.contract import Method
from taskman_sdk.errors import (
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    TaskManError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
)
from taskman_server.gateway.admission import Admission, Priority, priority_of
from taskman_server.gateway.http import (
    JSON,
    NDJSON,
    PROBLEM,
    Receive,
    Request,
    Scope,
    Send,
    head_of,
    limit_headers,
    problem,
    read_body,
    respond,
)
from taskman_server.gateway.remembered import Remembered
from taskman_server.gateway.rendering import Rendering, items_of
from taskman_server.gateway.routes import MethodNotAllowed, Router
from taskman_server.gateway.transcode import Transcoder
from taskman_server.kit.forwarded import networks
from taskman_server.kit.ids import request_id_of
from taskman_server.kit.limits import Bank, Limiter, RedisBank, SharedLimiter, Verdict
from taskman_server.kit.rpc import ANONYMOUS, CallOptions, Channels, Origin, Principal

if TYPE_CHECKING:
    from taskman_server.kit.clock import Clock
    from taskman_server.kit.guard import Guard
    from taskman_server.kit.identity import Authenticator
    from taskman_server.kit.redis import Redis
    from taskman_server.kit.telemetry import Telemetry
    from taskman_server.settings import Settings

__all__ = ["Gateway"]

# What of a client's headers goes on to the services. Everything else, and any claim of identity, stays here (GATE-2).
_FORWARDED: Final = ("authorization", "idempotency-key")
_API: Final = ("/v1/", "/.well-known/")


@dataclass(slots=True)
class _EdgeCall:
    """A call as the edge sees it; what the coarse decision needs (see `guard.Caller`)."""

    method: Method
    principal: Principal
    request_id: str
    origin: Origin
    now: datetime


@dataclass(frozen=True, slots=True)
class _Entry:
    method: Method
    transcode: Callable[..., codec.Message[Any]]
    takes_body: bool
    priority: Priority
    status: int
    has_etag: bool
    items: str


class Gateway:
    """All REST routes of the contract over channels to the services."""

    def __init__(
        self,
        channels: Channels,
        authenticator: Authenticator,
        guard: Guard,
        settings: Settings,
        clock: Clock,
        telemetry: Telemetry,
        pages: ASGIApp,
        methods: Iterable[Method] | None = None,
        *,
        redis: Redis | None = None,
        bank: Bank | None = None,
    ) -> None:
        """Args:
        channels: to the services.
        authenticator: tokens to principals.
        guard: decisions.
        settings: the settings tree.
        clock: the time.
        telemetry: logs and metrics.
        pages: answers what is not an RPC: health, metrics, documentation.
        methods: the RPCs to answer; all of the contract when None.
        redis: where all gateways share their limits.
        bank: where the processes of one server do; with neither, limits are of this process.
        """
        self._channels = channels
        self._authenticator = authenticator
        self._guard = guard
        self._clock = clock
        self._telemetry = telemetry
        self._pages = pages
        self._rendering = Rendering()
        self._max_body = settings.max_body_bytes
        self.limiter = _limiter(settings, clock, telemetry, redis, bank)
        self.admission = Admission(telemetry)
        self._trusted = networks(settings.trusted_proxies)
        self.remembered = Remembered(authenticator, self.limiter, clock, telemetry, self._trusted)
        known = list(contract.methods() if methods is None else methods)
        self._router = Router(known)
        self._entries = {method.path: _entry(method) for method in known if method.route is not None}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http" or not scope["path"].startswith(_API):
            await self._pages(scope, receive, send)
            return
        started = time.perf_counter()
        outcome = _Outcome()
        request = None
        try:
            request = Request.of(scope, self._trusted)
            await self._answer(request, receive, send, outcome)
        except asyncio.CancelledError:
            # The server stops and has waited long enough: say so, where the answer has not begun.
            outcome.status = 503
            stopping = UnavailableError("The server is stopping. Try again.", reason="SERVER_STOPPING", retry_after=1)
            with contextlib.suppress(Exception):
                await self._refuse(stopping, scope["path"], request, send, outcome)
        except Exception as error:
            path = request.path if request is not None else scope["path"]
            await self._refuse(error, path, request, send, outcome)
        finally:
            if request is not None:
                seconds = time.perf_counter() - started
                if outcome.counts:
                    self.admission.answered(seconds - outcome.sending)
                self._log(request, outcome, seconds)

    async def _answer(self, request: Request, receive: Receive, send: Send, outcome: _Outcome) -> None:
        entry, values = self._route(request)
        outcome.method = entry.method
        timeout = _timeout(request.headers.get("x-request-timeout", ""))
        if entry.priority is Priority.FIRST or entry.method.streaming:
            with self.admission.aside():
                await self._work(entry, values, request, timeout, receive, send, outcome)
            return
        outcome.counts = True
        waited = await self.admission.turn(entry.priority, timeout)
        if timeout is not None:
            timeout -= waited
        await self._work(entry, values, request, timeout, receive, send, outcome)

    async def _work(
        self,
        entry: _Entry,
        values: tuple[str, ...],
        request: Request,
        timeout: float | None,
        receive: Receive,
        send: Send,
        outcome: _Outcome,
    ) -> None:
        method = entry.method
        call = _EdgeCall(
            method,
            ANONYMOUS,
            request.request_id,
            Origin(request.ip_address, request.headers.get("user-agent", "")[:500]),
            self._clock.now(),
        )
        await self._admit(request, call, outcome)
        body = b""
        if request.verb != "GET":
            asked = time.perf_counter()
            with self.admission.aside():
                body = await read_body(receive, self._max_body, request.headers.get("content-length", ""))
            outcome.sending = time.perf_counter() - asked
        if body and entry.takes_body:
            _check_content_type(request.headers)
        message = entry.transcode(values, request.query, body, request.headers.get("if-match", ""))
        with self._telemetry.edge(method, request.verb, request.headers.get("traceparent", "")) as traceparent:
            outcome.traceparent = traceparent
            await self._call(entry, message, request, traceparent, timeout, call.origin, send, outcome)

    async def _call(
        self,
        entry: _Entry,
        message: codec.Message[Any],
        request: Request,
        traceparent: str,
        timeout: float | None,
        origin: Origin,
        send: Send,
        outcome: _Outcome,
    ) -> None:
        method = entry.method
        metadata = {name: value for name in _FORWARDED if (value := request.headers.get(name))}
        if traceparent:
            metadata["traceparent"] = traceparent
        metadata["x-request-id"] = request.request_id
        options = CallOptions(metadata, timeout, None, origin)
        if method.streaming:
            await self._stream(method, message, options, send, outcome)
            return
        reply = await self._channels.unary(method, message, options)
        kept = options.kept and entry.items
        document = self._rendering.to_json(reply, entry.items) if kept else codec.to_json(reply)
        headers = head_of(document, JSON)
        if entry.has_etag:
            headers.append((b"etag", b'"%s"' % reply.etag.encode()))  # type: ignore[attr-defined]
        if options.repeats is not None:
            self.remembered.keep(request, method, headers, document, options.repeats)
        headers += [*limit_headers(self.limiter, outcome.verdict), (b"x-request-id", request.request_id.encode())]
        if options.trailers.get("idempotency-replayed"):
            headers.append((b"idempotency-replayed", b"true"))
        outcome.status = entry.status
        await respond(send, entry.status, document, headers)

    def _route(self, request: Request) -> tuple[_Entry, tuple[str, ...]]:
        verb = "GET" if request.verb == "HEAD" else request.verb
        try:
            match = self._router.match(verb, request.path)
        except MethodNotAllowed as error:
            raise UnimplementedError(
                f"{request.path} does not take {request.verb}; it takes {', '.join(error.allowed)}.",
                reason="METHOD_NOT_ALLOWED",
                metadata={"allow": ", ".join(error.allowed)},
            ) from None
        if match is None:
            raise NotFoundError(f"There is nothing at {request.path[:200]}. /docs lists what there is.",
                                reason="ROUTE_NOT_FOUND")  # fmt: skip
        return self._entries[match.method.path], match.values

    async def _admit(self, request: Request, call: _EdgeCall, outcome: _Outcome) -> None:
        """Identity, limit and coarse permission, in this order."""
        method = call.method
        if method.access != "public":
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            try:
                if not token or scheme.lower() != "bearer":
                    raise UnauthenticatedError(
                        "This call needs a token: send `Authorization: Bearer …`; POST /v1/auth/login answers one.",
                        reason="TOKEN_MISSING" if not scheme else "TOKEN_INVALID",
                    )
                call.principal = await self._authenticator.authenticate(token.strip(), call)
            except UnauthenticatedError:
                # Who guesses tokens is slowed by address, like everyone who is not signed in.
                if self.limiter is not None:
                    key = request.ip_address
                    outcome.verdict = self.limiter.take(key) or await self.limiter.more(key)
                raise
        outcome.principal = call.principal.id
        if self.limiter is not None:
            key = request.ip_address if call.principal is ANONYMOUS else call.principal.id
            outcome.verdict = self.limiter.take(key) or await self.limiter.more(key)
        if method.permission:
            await self._guard.require_possible(call, method.permission)

    async def _stream(
        self, method: Method, message: codec.Message[Any], options: CallOptions, send: Send, outcome: _Outcome
    ) -> None:
        started = False
        try:
            async for reply in self._channels.stream(method, message, options):
                if not started:
                    await send(_stream_head(options))
                    started = True
                await send({"type": "http.response.body", "body": codec.to_json(reply) + b"\n", "more_body": True})
        except TaskManError as error:
            if not started:
                raise
            # The status is gone out already: the last line says how it ended.
            status, document, _ = problem(error, method.path)
            outcome.status, outcome.reason = status, error.reason
            await send({"type": "http.response.body", "body": b'{"error":' + document + b"}\n", "more_body": False})
            return
        outcome.status = 200
        if not started:
            await send(_stream_head(options))
        await send({"type": "http.response.body", "body": b""})

    async def _refuse(
        self, error: Exception, path: str, request: Request | None, send: Send, outcome: _Outcome
    ) -> None:
        if not isinstance(error, TaskManError):
            self._telemetry.log.error("fault at the edge", path=path, exc_info=error)
            error = InternalError("A fault on our side; the log has it under this request id.", reason="INTERNAL")
        request_id = request.request_id if request is not None else request_id_of("")
        error.request_id = request_id
        status, document, headers = problem(error, path)
        outcome.status, outcome.reason = status, error.reason
        headers += [(b"x-request-id", request_id.encode()), *limit_headers(self.limiter, outcome.verdict)]
        await respond(send, status, document, [*head_of(document, PROBLEM), *headers])

    def _log(self, request: Request, outcome: _Outcome, seconds: float) -> None:
        self._telemetry.request(
            verb=request.verb,
            route=outcome.method.operation_id if outcome.method is not None else "",
            path=request.path,
            status=outcome.status,
            seconds=seconds,
            principal=outcome.principal,
            request_id=request.request_id,
            ip_address=request.ip_address,
            reason=outcome.reason,
            traceparent=outcome.traceparent,
        )


@dataclass(slots=True)
class _Outcome:
    method: Method | None = None
    principal: str = ""
    status: int = 0
    reason: str = ""
    traceparent: str = ""
    verdict: Verdict | None = None
    counts: bool = False
    sending: float = 0.0


def _entry(method: Method) -> _Entry:
    transcoder = Transcoder(method)
    return _Entry(
        method,
        transcoder.request,
        transcoder.takes_body,
        priority_of(method),
        201 if method.name.startswith("Create") else 200,
        any(field.name == "etag" for field in method.output.desc().fields),
        items_of(method),
    )


def _limiter(
    settings: Settings, clock: Clock, telemetry: Telemetry, redis: Redis | None, bank: Bank | None
) -> Limiter | None:
    limit, shadow = settings.rate_limit, settings.rate_limit_shadow
    if limit is None:
        return None
    if redis is not None:
        bank = RedisBank(redis, limit)
    if bank is None:
        return Limiter(limit, clock.monotonic, shadow=shadow, telemetry=telemetry)
    return SharedLimiter(limit, clock.monotonic, bank, shadow=shadow, telemetry=telemetry)


def _timeout(text: str) -> float | None:
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds < float("inf"):
        raise InvalidArgumentError(
            f"X-Request-Timeout must be a number of seconds above 0, not {text[:50]!r}.", reason="HEADER_INVALID"
        )
    return seconds


def _check_content_type(headers: Any) -> None:
    kind, _, parameters = headers.get("content-type", "").partition(";")
    charset = parameters.strip().lower().removeprefix("charset=").strip('"')
    if kind.strip().lower() != "application/json" or charset not in ("", "utf-8", "utf8"):
        raise InvalidArgumentError(
            f"The body must be sent as `Content-Type: application/json` in UTF-8, not "
            f"{headers.get('content-type', 'without a type')[:100]!r}.",
            reason="MEDIA_TYPE_NOT_SUPPORTED",
        )


def _stream_head(options: CallOptions) -> dict[str, Any]:
    headers = [
        (b"content-type", NDJSON),
        (b"x-content-type-options", b"nosniff"),
        (b"cache-control", b"no-store"),
        (b"x-request-id", options.trailers.get("x-request-id", "").encode()),
    ]
    return {"type": "http.response.start", "status": 200, "headers": headers}
