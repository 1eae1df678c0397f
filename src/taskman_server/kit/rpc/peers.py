"""The channel from one of our processes to a service in another: certificates, replicas, breaker, retries, batches.

What a caller is spared: which replica answers, that a connection or a certificate was replaced, that a replica went
away under a call that only reads. What it is told: everything that a service answered, and `UNAVAILABLE` at once when
no replica answers.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio

from taskman_sdk import codec
from taskman_sdk.contract import Method
from taskman_sdk.errors import DeadlineExceededError, TaskManError, UnavailableError
from taskman_sdk.resilience import TELLING_TIMEOUT, Gate, RetryBudget, RetryPolicy
from taskman_server.kit.rpc import claims
from taskman_server.kit.rpc.batch import LONGEST_TIMEOUT, Batcher, BatchLost
from taskman_server.kit.rpc.channel import STATUS_DETAILS, CallOptions, GrpcChannel, error_of_rpc, pairs

if TYPE_CHECKING:
    from taskman_server.kit.tls import Identity

__all__ = ["PeerChannel"]

DEFAULT_TIMEOUT: Final = 30.0
CONNECT_SECONDS: Final = 2.0
START_SECONDS: Final = 10.0
KEEPALIVE_SECONDS: Final = 20
_POLICY: Final = RetryPolicy(max_retries=3, base=0.02, cap=0.25)
# gRPC's words for a call that found no connection: it has reached nobody.
_UNSENT: Final = (
    "failed to connect to all",
    "connections to all",
    "errors resolving",
    "DNS resolution",
    "empty address",
)
_SERVICE_CONFIG: Final = json.dumps(
    # A replica that says NOT_SERVING gets no new calls while another one serves.
    {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}
)


class _Fault(Exception):
    """No answer of the service: the way to it failed.

    Attributes:
        unsent: the call has certainly reached nobody.
    """

    def __init__(self, detail: str, *, unsent: bool) -> None:
        super().__init__(detail)
        self.unsent = unsent


class _Line(GrpcChannel):
    """To one target, which may be several replicas behind one name."""

    def __init__(self, target: str, service: str, identity: Identity | None) -> None:
        options: list[tuple[str, str | int]] = [
            ("grpc.service_config", _SERVICE_CONFIG),
            ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
            ("grpc.keepalive_timeout_ms", 5000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
            # How long an attempt to connect may take, and how long to wait between two.
            ("grpc.min_reconnect_backoff_ms", int(CONNECT_SECONDS * 1000)),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", int(CONNECT_SECONDS * 1000)),
            # The server must have the certificate of this service, wherever we found it.
            ("grpc.ssl_target_name_override", service),
            *claims.METADATA_LIMITS,
        ]
        super().__init__(target, identity.channel_credentials() if identity is not None else None, options)
        self.batcher = Batcher(self._channel)
        self.version = identity.version if identity is not None else 0
        self.under_way = 0
        self.idle = asyncio.Event()
        self.idle.set()

    @property
    def connected(self) -> bool:
        return self._channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY

    async def connect(self) -> None:
        """Returns when there is a connection."""
        while (state := self._channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
            await self._channel.wait_for_state_change(state)

    def enter(self) -> None:
        self.under_way += 1
        self.idle.clear()

    def leave(self) -> None:
        self.under_way -= 1
        if not self.under_way:
            self.idle.set()

    async def retire(self) -> None:
        """Closes when the last call has ended."""
        await self.idle.wait()
        await self.close()

    async def together(self, method: Method, request: codec.Message[Any], options: CallOptions) -> codec.Message[Any]:
        """Makes the call together with others that are made now, if there are any."""
        if self.under_way > 1:
            try:
                if (answer := await self.batcher.unary(method, request, options)) is not None:
                    return answer
            except BatchLost as lost:
                if lost.error is None:
                    raise _Fault("the answer did not come", unsent=False) from None
                raise self._failed(lost.error) from None
        return await self.unary(method, request, options)

    def _metadata(self, options: CallOptions) -> tuple[tuple[str, str | bytes], ...]:
        return claims.on_the_wire(claims.claims_of(options))

    def _failed(self, error: grpc.aio.AioRpcError) -> Exception:
        answered = any(key == STATUS_DETAILS for key, _ in pairs(error.trailing_metadata()))
        if not answered and error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
            detail = error.details() or error.code().name
            return _Fault(detail, unsent=detail.startswith(_UNSENT))
        return error_of_rpc(error)


class _Target:
    """One address with its breaker; the line to it is replaced when our certificate is."""

    def __init__(self, address: str, service: str, identity: Identity | None, reset_seconds: float) -> None:
        self.address = address
        self.gate = Gate(f"the {service} service", reset_timeout=reset_seconds)
        self.line = _Line(address, service, identity)
        self.last_success = self.last_loss = 0.0
        self._away = False

    def enter(self) -> bool:
        """See `Gate.enter`; a connection that has come back is probed at once."""
        if self._away and self.line.connected:
            self._away = False
            self.gate.hint()
        return self.gate.enter()

    def judge(self, started: float, timeout: float, error: BaseException | None) -> bool | None:
        """What the end of a call says about the target: it works, it does not, or nothing."""
        if error is None:
            self.last_success = time.monotonic()
            return True
        if isinstance(error, _Fault):
            self._away = True
            if error.unsent:
                return False
            # One lost connection ends many calls at once: that is one failure, not one for each.
            known, self.last_loss = started <= self.last_loss, time.monotonic()
            return None if known else False
        if isinstance(error, DeadlineExceededError):
            # An impatient caller or a slow RPC is no sign, as long as others are answered.
            return False if timeout >= TELLING_TIMEOUT and self.last_success < started else None
        return True if isinstance(error, TaskManError) else None


class PeerChannel:
    """To one service, wherever its replicas are."""

    def __init__(
        self,
        service: str,
        targets: str | Sequence[str],
        identity: Identity | None = None,
        *,
        policy: RetryPolicy = _POLICY,
        budget: RetryBudget | None = None,
        start_seconds: float = START_SECONDS,
        reset_seconds: float = 5.0,
        batching: bool = True,
        observe: Callable[[str, str], None] | None = None,
    ) -> None:
        """Args:
        service: whose certificate is expected at the other end, for example `tasks`.
        targets: `host:port` or `dns:///name:port`, one or several (as a list, or with commas between them).
        identity: our certificate; None where a mesh does TLS.
        policy: when to try again.
        budget: how much trying again is affordable.
        start_seconds: how long the first calls wait for a service that starts beside us.
        reset_seconds: how long the breaker stays open before it lets a probe through.
        batching: calls of one turn of the event loop travel in one message.
        observe: is told of each `retry`, `refused` (by the breaker) and `unreachable`, with the service's name.

        Call it in the event loop.
        """
        addresses = targets.split(",") if isinstance(targets, str) else list(targets)
        addresses = [address.strip() for address in addresses if address.strip()]
        if not addresses:
            raise ValueError(f"no address for {service}: `host:port`, several with commas between them")
        self.service = service
        self._identity = identity
        self.version = identity.version if identity is not None else 0
        self.targets = [_Target(address, service, identity, reset_seconds) for address in addresses]
        self._batching = batching
        self._policy = policy
        self._budget = budget or RetryBudget(capacity=100)
        self._observe = observe or (lambda what, service: None)
        self._turn = 0
        self._starting_until: float | None = time.monotonic() + start_seconds
        self._background: set[asyncio.Task[None]] = set()

    @property
    def batched(self) -> int:
        """How many calls have travelled together with others, over the connections of now."""
        return sum(target.line.batcher.batched for target in self.targets)

    def ready(self) -> bool:
        """Whether a call would find a connection; begins to connect where there is none."""
        connected = [target.line.connected for target in self.targets]  # asks all: each begins to connect
        return any(connected)

    async def unary(self, method: Method, request: codec.Message[Any], options: CallOptions) -> codec.Message[Any]:
        """See `Channel.unary`."""
        deadline = time.monotonic() + _timeout(options)
        made = 0
        while True:
            target, probe = await self._enter(deadline)
            line = target.line
            error: BaseException | None = None
            started = time.monotonic()
            line.enter()
            try:
                call = line.together if self._batching and not probe else line.unary
                answer = await call(method, request, _until(options, deadline - started))
                self._budget.success()
                return answer
            except BaseException as caught:
                error = caught
                if not isinstance(caught, _Fault):
                    raise
            finally:
                line.leave()
                target.gate.leave(probe, target.judge(started, deadline - started, error))
            assert isinstance(error, _Fault)
            made += 1
            await self._again(error, method, made, deadline)

    async def stream(
        self, method: Method, request: codec.Message[Any], options: CallOptions
    ) -> AsyncIterator[codec.Message[Any]]:
        """See `Channel.stream`. Tried again only as long as nothing has come."""
        deadline = time.monotonic() + _timeout(options)
        made, began = 0, False
        while True:
            target, probe = await self._enter(deadline)
            line = target.line
            error: BaseException | None = None
            started = time.monotonic()
            line.enter()
            try:
                async with aclosing(line.stream(method, request, _until(options, deadline - started))) as answers:  # type: ignore[type-var]
                    async for answer in answers:
                        if not began:
                            began, target.last_success = True, time.monotonic()
                        yield answer
                self._budget.success()
                return
            except BaseException as caught:
                error = caught
                if not isinstance(caught, _Fault):
                    raise
            finally:
                line.leave()
                target.gate.leave(probe, target.judge(started, deadline - started, error))
            assert isinstance(error, _Fault)
            if began:
                raise self._unreachable(error)
            made += 1
            await self._again(error, method, made, deadline)

    async def close(self) -> None:
        """Closes the connections; calls under way are cancelled."""
        tasks = list(self._background)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(target.line.close() for target in self.targets))

    async def _enter(self, deadline: float) -> tuple[_Target, bool]:
        """The target whose turn it is, and whether the call is its breaker's probe."""
        if self._identity is not None:
            self._identity.refresh()
            if self._identity.version != self.version:
                self._renew(self._identity)
        if self._starting_until is not None:
            await self._start(min(self._starting_until, deadline))
        if len(self.targets) == 1:
            candidates = self.targets
        else:
            self._turn = (self._turn + 1) % len(self.targets)
            candidates = self.targets[self._turn :] + self.targets[: self._turn]
            # Those with a connection first, each in its turn.
            candidates.sort(key=lambda target: not target.line.connected)
        refused: UnavailableError | None = None
        for target in candidates:
            try:
                return target, target.enter()
            except UnavailableError as error:
                refused = refused or error
        assert refused is not None
        self._observe("refused", self.service)
        raise self._unavailable(refused.retry_after or 0) from refused

    async def _start(self, until: float) -> None:
        """Waits for a first connection: processes of one deployment start side by side."""
        connecting = [asyncio.ensure_future(target.line.connect()) for target in self.targets]
        try:
            left = max(0.0, until - time.monotonic())
            await asyncio.wait(connecting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in connecting:
                each.cancel()
        if self.ready() or (self._starting_until is not None and time.monotonic() >= self._starting_until):
            self._starting_until = None

    async def _again(self, fault: _Fault, method: Method, made: int, deadline: float) -> None:
        """Waits until the call may be made once more.

        Raises:
            UnavailableError: it may not.
        """
        safe = fault.unsent or method.read_only
        pause = self._policy.wait(made, None)
        if not safe or made > self._policy.max_retries or time.monotonic() + pause >= deadline:
            raise self._unreachable(fault)
        if not self._budget.take():
            raise self._unreachable(fault)
        self._observe("retry", self.service)
        await asyncio.sleep(pause)

    def _unreachable(self, fault: _Fault) -> UnavailableError:
        self._observe("unreachable", self.service)
        error = self._unavailable(0)
        error.__cause__ = fault
        return error

    def _unavailable(self, retry_after: float) -> UnavailableError:
        """What callers are told, clients included: neither addresses nor certificates are their business."""
        return UnavailableError(
            f"The {self.service} service cannot be reached right now. Try again.",
            reason="SERVICE_UNREACHABLE",
            metadata={"service": self.service},
            retry_after=max(1.0, retry_after),
        )

    def _renew(self, identity: Identity) -> None:
        self.version = identity.version
        for target in self.targets:
            task = asyncio.create_task(self._replace(target, _Line(target.address, self.service, identity)))
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    @staticmethod
    async def _replace(target: _Target, line: _Line) -> None:
        """Puts a line with our new certificate in the old one's place, once it is up, or the old one is down."""
        try:
            connecting = asyncio.ensure_future(line.connect())
            try:
                while not connecting.done() and target.line.connected:
                    await asyncio.wait([connecting], timeout=1)
            finally:
                connecting.cancel()
        except BaseException:
            await line.close()
            raise
        if line.version < target.line.version:  # overtaken by a later one
            await line.close()
            return
        old, target.line = target.line, line
        try:
            await old.retire()
        except asyncio.CancelledError:
            await old.close()
            raise


def _timeout(options: CallOptions) -> float:
    # A client of the gateway's gRPC names what it likes.
    return min(options.timeout, LONGEST_TIMEOUT) if options.timeout is not None else DEFAULT_TIMEOUT


def _until(options: CallOptions, timeout: float) -> CallOptions:
    return CallOptions(options.metadata, max(timeout, 0.0), options.caller, options.origin, options.trailers)
