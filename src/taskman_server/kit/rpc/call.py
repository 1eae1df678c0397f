"""What a handler knows of the call it answers: who, from where, until when; and what it may do with it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from taskman_sdk import codec, contract
from taskman_sdk.errors import AbortedError, FailedPreconditionError, NotFoundError, PermissionDeniedError, TaskManError
from taskman_server.kit.ids import new_id
from taskman_server.kit.outbox import Event
from taskman_server.kit.rpc.channel import CallOptions, Origin

if TYPE_CHECKING:
    from taskman_server.kit.db import Transaction
    from taskman_server.kit.guard import Scope
    from taskman_server.kit.rpc.runtime import Runtime

__all__ = ["ANONYMOUS", "Call", "Context", "Origin", "Principal", "service_principal"]

M = TypeVar("M", bound="codec.Message[Any]")


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls.

    Attributes:
        id: `user_…`, `service:tasks`, or `anonymous`.
        type: what it is.
        organization: the tenant that everything this principal does stays within; empty for `anonymous`.
        session: the session of the token, for users.
        actor: on whose behalf a service calls; empty for its own.
    """

    id: str
    type: Literal["user", "service", "anonymous"]
    organization: str
    session: str = ""
    actor: str = ""


ANONYMOUS: Final = Principal("anonymous", "anonymous", "")


def service_principal(service: str, organization: str, actor: str = "") -> Principal:
    """The identity of a service that calls another one, on behalf of `actor` where there is one."""
    return Principal(f"service:{service}", "service", organization, actor=actor)


@dataclass(slots=True)
class Context:
    """Somebody doing something for a reason: what events and calls to peers carry on.

    Attributes:
        runtime: the service this happens in.
        principal: who.
        request_id: the request that began it.
        origin: where it came from.
        traceparent: W3C trace context, empty for none.
        deadline: until when somebody waits, by the event loop's clock; no call to a peer lasts longer.
    """

    runtime: Runtime
    principal: Principal
    request_id: str
    origin: Origin = field(default_factory=Origin)
    traceparent: str = ""
    deadline: float = math.inf

    @property
    def now(self) -> datetime:
        """The time, by the clock of the service."""
        return self.runtime.clock.now()

    async def peer(self, operation: str, request: codec.Message[Any], answer: type[M]) -> M:
        """Calls another service, as this service on behalf of the principal.

        Args:
            operation: for example `UserService.BatchGetUsers`.
            request: its request.
            answer: the class of its answer.

        Raises:
            TaskManError: what the peer answered.
        """
        caller = service_principal(
            self.runtime.name, self.principal.organization, self.principal.actor or self.principal.id
        )
        metadata = {"x-request-id": self.request_id}
        if self.traceparent:
            metadata["traceparent"] = self.traceparent
        left = max(0.0, self.deadline - asyncio.get_running_loop().time())
        timeout = min(self.runtime.peer_timeout, left)
        options = CallOptions(metadata=metadata, caller=caller, origin=self.origin, timeout=timeout)
        reply = await self.runtime.channels.unary(contract.method(operation), request, options)
        assert isinstance(reply, answer)
        return reply

    async def emit(
        self,
        tx: Transaction,
        name: str,
        payload: codec.Message[Any],
        *,
        subject: str,
        result: Literal["success", "failure", "denied"] = "success",
        organization: str = "",
        actor: str = "",
    ) -> Event:
        """Puts an event into the outbox, in the same commit as the change it tells of (EVENT-1).

        Args:
            tx: the transaction of the change.
            name: an event of the contract, for example `task.created`.
            payload: its data.
            subject: the id of what it is about; events of one subject keep their order.
            result: how it went.
            organization: the tenant, where it is not the principal's.
            actor: who did it, where it is not the principal.
        """
        kind = contract.event(name)
        assert isinstance(payload, kind.payload), f"{name} carries {kind.payload.__name__}"
        principal = self.principal
        actor = actor or principal.actor or principal.id
        event = Event(
            id=new_id("event"),
            source=f"/taskman/{self.runtime.name}",
            type=kind.cloud_type,
            subject=subject,
            time=self.now,
            organization=organization or principal.organization,
            actor=actor,
            actortype="user" if actor.startswith("user_") else principal.type,
            requestid=self.request_id,
            traceparent=self.traceparent,
            partitionkey=subject,
            result=result,
            ipaddress=self.origin.ip_address,
            data=codec.to_value(payload, implicit=False),
        )
        await self.runtime.outbox.append(tx, event)
        return event


@dataclass(slots=True)
class Call(Context):
    """One call of one RPC.

    Attributes:
        method: the RPC.
        metadata: what the caller sent beside the message, keys in lower case.
        trailers: what goes back beside the answer.
        repeats: whether a principal would be given the same answer again (see `lasts`).
        kept: the answer is a list of messages that the service keeps (see `CallOptions.kept`).
    """

    method: contract.Method = field(kw_only=True)
    metadata: Mapping[str, str] = field(kw_only=True)
    trailers: dict[str, str] = field(kw_only=True)
    authorized: bool = False
    repeats: Callable[[Principal, datetime], bool] | None = None
    kept: bool = False
    tx: Transaction | None = None
    _stack: AsyncExitStack | None = None

    async def peer(self, operation: str, request: codec.Message[Any], answer: type[M]) -> M:
        """See `Context.peer`; not possible once the transaction has begun: a peer's delay would hold its locks."""
        assert self.tx is None, f"{self.method.operation_id} calls {operation} inside its transaction"
        return await Context.peer(self, operation, request, answer)

    async def begin(self) -> Transaction:
        """Begins the transaction of this call. The pipeline commits it when the handler has returned, together with
        the record for the idempotency key, and rolls it back when the handler raises."""
        if self.tx is None:
            self._stack = AsyncExitStack()
            self.tx = await self._stack.enter_async_context(self.runtime.db.transaction())
        return self.tx

    async def finish(self, error: BaseException | None) -> None:
        """Commits, or rolls back for an error. For the pipeline."""
        if self._stack is not None:
            stack, self._stack, self.tx = self._stack, None, None
            if error is None:
                await stack.aclose()
            else:
                await stack.__aexit__(type(error), error, error.__traceback__)

    async def authorize(
        self,
        resource: Mapping[str, Any],
        *,
        permission: str = "",
        hidden: TaskManError | None = None,
        read_permission: str = "",
    ) -> None:
        """Decides on the resource's own attributes, for the permission of the RPC or the one given (AUTHZ-1).

        Args:
            resource: what the contract's `…Resource` message of the permission names.
            permission: another permission than the RPC's.
            hidden: the error for a principal who may not even know of the resource.
            read_permission: the permission by which one may know of it.

        Raises:
            NotFoundError: `hidden`, when the principal may not read the resource.
            PermissionDeniedError: the principal may read it, but not do this.
        """
        needed = permission or self.method.permission
        self.authorized = True
        guard = self.runtime.guard
        if await guard.allows(self, needed, resource):
            return
        await guard.report(self, needed, resource)
        if hidden is not None and (
            needed == read_permission or not await guard.allows(self, read_permission or needed, resource)
        ):
            raise hidden
        raise PermissionDeniedError(
            f"You may not do this: the permission {needed!r} is missing for {resource.get('id') or 'this'}. "
            "Ask an administrator for a role that has it.",
            reason="PERMISSION_MISSING",
            metadata={"permission": needed},
        )

    async def scope(self, permission: str = "") -> Scope:
        """The rights of the principal as a condition for the WHERE of a list (AUTHZ-5)."""
        self.authorized = True
        return await self.runtime.guard.scope(self, permission or self.method.permission)

    def lasts(self, resource: Mapping[str, Any], unchanged: Callable[[], bool]) -> None:
        """Says that the answer is the same for everybody who has the permission for this resource, as long as it is
        unchanged. Only for a handler that has looked at nothing else, and has left nothing behind.

        Args:
            resource: what was decided on.
            unchanged: whether it, and all else that the answer was made of, is still the same.
        """
        self.repeats = self.runtime.guard.repeats(
            self.principal.organization, self.method.permission, resource, unchanged
        )

    def check_etag(self, given: str, current: str, what: str) -> None:
        """Refuses a change to something that changed since the caller saw it (AIP-154, RFC 9110 If-Match).

        Raises:
            AbortedError: the etag is another one.
        """
        if given and given.strip('"') != current:
            raise AbortedError(
                f"{what} has changed since you read it (etag {given!r}, now {current!r}). Read it again and repeat.",
                reason="ETAG_MISMATCH",
                metadata={"etag": current},
            )


def not_found(kind: str, name: str) -> NotFoundError:
    """The error for something that is not there, or not for the caller to know."""
    return NotFoundError(
        f"There is no {kind} {name!r}, or it is not yours to see.",
        reason=f"{kind.upper()}_NOT_FOUND",
        metadata={kind: name},
    )


def precondition(message: str, reason: str, **metadata: str) -> FailedPreconditionError:
    """The error for a call that does not fit the state of things."""
    return FailedPreconditionError(message, reason=reason, metadata=metadata)
