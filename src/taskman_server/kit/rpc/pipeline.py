"""The pipeline in front of every handler: deadline, caller, permission, validation, idempotency, errors, span."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import protovalidate

from taskman_sdk import codec, contract
from taskman_sdk.errors import (
    DeadlineExceededError,
    FieldViolation,
    InternalError,
    InvalidArgumentError,
    PermissionDeniedError,
    TaskManError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
    error_class_for_number,
)
from taskman_server.kit.db import DatabaseUnavailable, StatementTimeout, TextRefused, TransactionConflict
from taskman_server.kit.ids import request_id_of
from taskman_server.kit.rpc.call import ANONYMOUS, Call, Principal
from taskman_server.kit.rpc.channel import CallOptions
from taskman_server.kit.rpc.idempotency import Idempotency

if TYPE_CHECKING:
    from taskman_server.kit.rpc.runtime import Runtime

__all__ = ["Pipeline"]

MAX_TIMEOUT: Final = 300.0
_ATTEMPTS: Final = 5
_PAUSE: Final = 0.005
_validator: Final = protovalidate.Validator()


@dataclass(frozen=True, slots=True)
class _Entry:
    method: contract.Method
    handle: Callable[[Any, Call], Any]


class Pipeline:
    """All RPCs of one service, ready to be called."""

    def __init__(self, service: contract.Service, handlers: object, runtime: Runtime) -> None:
        """Args:
            service: the service as the contract has it.
            handlers: an object with a function for each RPC: `create_task(request, call)`.
            runtime: what the handlers run in.

        Raises:
            ContractError: an RPC has no handler, or a handler no RPC.
        """
        self._runtime = runtime
        self._entries: dict[str, _Entry] = {}
        self._idempotency = Idempotency(runtime)
        known = {method.handler for method in service.methods.values()}
        for method in service.methods.values():
            handle = getattr(handlers, method.handler, None)
            if handle is None:
                raise contract.ContractError(
                    f"{type(handlers).__name__} has no {method.handler}() for {method.operation_id}"
                )
            self._entries[method.path] = _Entry(method, handle)
        if extra := [n for n in vars(type(handlers)) if not n.startswith("_") and n not in known]:
            raise contract.ContractError(f"{type(handlers).__name__}.{extra[0]}() answers no RPC of {service.name}")

    async def unary(
        self, method: contract.Method, request: codec.Message[Any], options: CallOptions
    ) -> codec.Message[Any]:
        """Answers an RPC with one answer.

        Raises:
            TaskManError: always of this kind, with the request id; a fault of ours as `InternalError`.
        """
        entry, call = self._open(method, options)
        with self._runtime.telemetry.rpc(method, call) as span:
            try:
                async with asyncio.timeout(_seconds(options, self._runtime)):
                    answer = await self._answer(entry, request, call)
                options.repeats, options.kept = call.repeats, call.kept
                return answer
            except Exception as error:
                raise span.failed(self._translate(error, call)) from error

    async def stream(
        self, method: contract.Method, request: codec.Message[Any], options: CallOptions
    ) -> AsyncGenerator[codec.Message[Any], None]:
        """Answers an RPC with a stream of answers.

        Raises:
            TaskManError: as `unary`, before or between the answers.
        """
        entry, call = self._open(method, options)
        deadline = asyncio.get_running_loop().time() + _seconds(options, self._runtime)
        with self._runtime.telemetry.rpc(method, call) as span:
            try:
                async with asyncio.timeout_at(deadline):
                    await self._admit(entry, request, call)
                answers: AsyncIterator[codec.Message[Any]] = entry.handle(request, call)
                async with aclosing(answers) as open_answers:  # type: ignore[type-var]
                    while True:
                        async with asyncio.timeout_at(deadline):
                            message = await anext(open_answers, None)
                        if message is None:
                            break
                        self._check_authorized(entry, call)
                        yield message
            except Exception as error:
                raise span.failed(self._translate(error, call)) from error

    def _open(self, method: contract.Method, options: CallOptions) -> tuple[_Entry, Call]:
        entry = self._entries.get(method.path)
        if entry is None:
            raise UnimplementedError(f"{method.service} has no {method.name} here.", reason="METHOD_NOT_FOUND")
        metadata = options.metadata
        request_id = request_id_of(metadata.get("x-request-id", ""))
        options.trailers["x-request-id"] = request_id
        call = Call(
            self._runtime,
            options.caller or ANONYMOUS,
            request_id,
            options.origin,
            metadata.get("traceparent", ""),
            asyncio.get_running_loop().time() + _seconds(options, self._runtime),
            method=method,
            metadata=metadata,
            trailers=options.trailers,
        )
        return entry, call

    async def _admit(self, entry: _Entry, request: codec.Message[Any], call: Call) -> None:
        method = entry.method
        if method.access != "public" and call.principal is ANONYMOUS:
            call.principal = await self._authenticate(call)
        if call.principal.type == "service":
            _check_caller(method, call.principal.id.removeprefix("service:"))
        elif method.access == "internal":
            raise PermissionDeniedError(
                f"{method.operation_id} is for the services of this deployment alone.", reason="INTERNAL_METHOD"
            )
        if method.access == "permission":
            await self._runtime.guard.require_possible(call, method.permission)
        if violations := _validator.collect_violations(request):
            raise InvalidArgumentError(
                "The request is not valid: " + "; ".join(f"{_path(v)}: {v.proto.message}" for v in violations[:3]),
                reason="FIELD_INVALID",
                field_violations=[FieldViolation(_path(v), v.proto.message, v.proto.rule_id) for v in violations[:20]],
            )

    async def _answer(self, entry: _Entry, request: codec.Message[Any], call: Call) -> codec.Message[Any]:
        await self._admit(entry, request, call)
        key = call.metadata.get("idempotency-key", "")
        if key and not entry.method.read_only and not entry.method.sensitive:
            return await self._idempotency.run(key, request, call, lambda: self._handle(entry, request, call, key))
        return await self._handle(entry, request, call)

    async def _handle(
        self, entry: _Entry, request: codec.Message[Any], call: Call, key: str = ""
    ) -> codec.Message[Any]:
        """Runs the handler and commits; again from its beginning where another transaction got in the way."""
        for attempt in range(_ATTEMPTS):
            try:
                return await self._attempt(entry, request, call, key)
            except TransactionConflict:
                if attempt == _ATTEMPTS - 1:
                    raise
                call.authorized = False
            await asyncio.sleep(random.uniform(0, _PAUSE * 2**attempt))
        raise AssertionError("the last attempt returns or raises")

    async def _attempt(self, entry: _Entry, request: codec.Message[Any], call: Call, key: str) -> codec.Message[Any]:
        try:
            answer: codec.Message[Any] = await entry.handle(request, call)
            self._check_authorized(entry, call)
            if key and call.tx is not None:
                await self._idempotency.remember(key, request, answer, call)
        except BaseException as error:
            await call.finish(error)
            raise
        wrote = call.tx is not None
        await call.finish(None)
        if wrote:
            await self._runtime.db.note_write(call.principal.id)
        return answer

    @staticmethod
    def _check_authorized(entry: _Entry, call: Call) -> None:
        # Fail closed: a handler that forgot to decide on the resource answers nothing.
        if entry.method.access == "permission" and not call.authorized:
            raise AssertionError(f"{entry.method.operation_id} answered without call.authorize() or call.scope()")

    async def _authenticate(self, call: Call) -> Principal:
        scheme, _, token = call.metadata.get("authorization", "").partition(" ")
        if not token:
            raise UnauthenticatedError(
                "This call needs a token: send `Authorization: Bearer …`; POST /v1/auth/login answers one.",
                reason="TOKEN_MISSING",
            )
        if scheme.lower() != "bearer":
            raise UnauthenticatedError("The Authorization header must be `Bearer …`.", reason="TOKEN_INVALID")
        return await self._runtime.authenticator.authenticate(token.strip(), call)

    def _translate(self, error: Exception, call: Call) -> TaskManError:
        if isinstance(error, TaskManError):
            known = _public(error)
        elif isinstance(error, TimeoutError):
            known = DeadlineExceededError(
                "The call took longer than its deadline; it may still take effect. Repeat it with its "
                "Idempotency-Key to be sure.",
                reason="DEADLINE_EXCEEDED",
            )
        elif isinstance(error, TextRefused):
            known = InvalidArgumentError(
                "A text of the request holds a NUL character (U+0000), which cannot be stored. Remove it.",
                reason="TEXT_INVALID",
            )
        elif isinstance(error, (DatabaseUnavailable, StatementTimeout, TransactionConflict)):
            known = UnavailableError(
                f"The database of {self._runtime.name} does not answer right now. Try again.",
                reason="DATABASE_UNAVAILABLE",
                retry_after=1,
            )
        else:
            self._runtime.telemetry.fault(call.method, call.request_id, error)
            known = InternalError(
                f"A fault on our side; nothing was changed. The log has it under request {call.request_id}.",
                reason="INTERNAL",
            )
        known.request_id = call.request_id  # an error object may be one that was raised before
        return known


def _check_caller(method: contract.Method, service: str) -> None:
    """A service calls what the contract says it calls, and nothing else (GATE-2)."""
    if service not in method.callers:
        who = ", ".join(sorted(method.callers)) or "no service"
        raise PermissionDeniedError(
            f"The service {service!r} may not call {method.operation_id} as itself; {who} may (`callers` of its rule "
            "in the contract).",
            reason="CALLER_NOT_ALLOWED",
            metadata={"service": service, "method": method.operation_id},
        )


def _public(error: TaskManError) -> TaskManError:
    """An error of the public tree. A kind of our own becomes what it is a kind of, in process as over gRPC."""
    kind = error_class_for_number(error.number)
    if type(error) is kind:
        return error
    return kind(
        error.message,
        reason=error.reason,
        metadata=error.metadata,
        field_violations=error.field_violations,
        retry_after=error.retry_after,
        request_id=error.request_id,
    )


def _seconds(options: CallOptions, runtime: Runtime) -> float:
    return min(options.timeout if options.timeout is not None else runtime.request_timeout, MAX_TIMEOUT)


def _path(violation: protovalidate.Violation) -> str:
    path = ""
    if violation.proto.field is not None:
        for element in violation.proto.field.elements:
            path += ("." if path else "") + element.field_name
            if element.subscript is not None:
                path += f"[{element.subscript.value}]"
    return path or "request"
