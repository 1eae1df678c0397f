"""Idempotency keys: the same answer for the same request, recorded in the commit of its effect (GATE-5).

After the IETF draft `Idempotency-Key`: same key and same request replay the answer, another request with the key is
refused (422), one while the first is still at work too (409). A failed call leaves no record and may be repeated.

The record's own key sees to it that there is one effect, in however many processes. With Redis the second of them
answers 409 at once, by a mark; without, it finds out when it commits, waits there for the first, and replays.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from taskman_sdk import codec
from taskman_sdk.errors import AbortedError, InvalidArgumentError, TaskManError
from taskman_server.kit.db import DatabaseError, Row, UniqueViolation
from taskman_server.kit.outbox import IDEMPOTENCY_INSERT, IDEMPOTENCY_PRUNE, IDEMPOTENCY_SELECT

if TYPE_CHECKING:
    from taskman_server.kit.redis import Redis, Script
    from taskman_server.kit.rpc.call import Call
    from taskman_server.kit.rpc.runtime import Runtime

__all__ = ["KEPT", "Idempotency", "IdempotencyPruner"]

MAX_KEY: Final = 255
KEPT: Final = timedelta(hours=24)
"""How long a key is remembered."""
MARK: Final = 3.0
"""Seconds that a mark stays when its process is killed; a call that works for longer lengthens that."""
_PRUNE_SECONDS: Final = 900.0


class Idempotency:
    """The keys of one service."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._db = runtime.db
        self._in_flight: set[tuple[str, str]] = set()

    async def run(
        self,
        key: str,
        request: codec.Message[Any],
        call: Call,
        handle: Callable[[], Awaitable[codec.Message[Any]]],
    ) -> codec.Message[Any]:
        """Answers from the record of the key, or by `handle`, which records its answer with `remember`.

        Raises:
            InvalidArgumentError: the key is malformed, or was used for another request.
            AbortedError: a request with the key is at work.
        """
        if len(key) > MAX_KEY or not key.isascii() or not key.isprintable():
            raise InvalidArgumentError(
                f"An Idempotency-Key is 1 to {MAX_KEY} printable ASCII characters, for example a UUID.",
                reason="IDEMPOTENCY_KEY_INVALID",
            )
        place = (_scope(call), key)
        if place in self._in_flight:
            raise _in_flight(key)
        self._in_flight.add(place)
        redis = self._runtime.redis
        mark = _Mark(redis, place) if redis is not None else None
        try:
            elsewhere = mark is not None and await mark.is_taken()
            row = await self._find(place)
            if row is None:
                if elsewhere:
                    raise _in_flight(key)
                try:
                    return await handle()
                except (TaskManError, DatabaseError) as error:
                    row = await self._find_after(error, place)
                    if row is None:
                        if isinstance(error, UniqueViolation) and error.table == "idempotency":
                            raise _in_flight(key) from None
                        raise
        finally:
            self._in_flight.discard(place)
            if mark is not None:
                mark.lift()
        if row.method != call.method.path or row.request_hash != _hash(request):
            raise InvalidArgumentError(
                f"The Idempotency-Key {key!r} was used for another request. Use a new key for a new request.",
                reason="IDEMPOTENCY_KEY_REUSED",
            )
        call.trailers["idempotency-replayed"] = "true"
        return codec.from_binary(call.method.output, row.response)

    async def _find(self, place: tuple[str, str]) -> Row | None:
        return await self._db.fetch_one(IDEMPOTENCY_SELECT, scope=place[0], key=place[1])

    async def _find_after(self, error: Exception, place: tuple[str, str]) -> Row | None:
        """What another process has recorded while we worked: then that is the answer, and our failure the trace of it,
        for example a name that is taken, by the same request."""
        try:
            return await self._find(place)
        except DatabaseError:
            raise error from None

    async def remember(self, key: str, request: codec.Message[Any], answer: codec.Message[Any], call: Call) -> None:
        """Records the answer in the call's own transaction."""
        assert call.tx is not None
        await call.tx.execute(
            IDEMPOTENCY_INSERT,
            scope=_scope(call),
            key=key,
            method=call.method.path,
            request_hash=_hash(request),
            response=codec.to_binary(answer),
            create_time=call.now,
        )


class _Mark:
    """The mark of a request that is at work, for the other processes."""

    def __init__(self, redis: Redis, place: tuple[str, str]) -> None:
        self._redis = redis
        self._key = "idempotency:" + hashlib.sha256("\0".join(place).encode()).hexdigest()
        self._token = secrets.token_hex(8)
        self._timer: asyncio.TimerHandle | None = None

    async def is_taken(self) -> bool:
        """Whether another process has its mark there; if not, ours is, where Redis answers."""
        if await self._redis.add(self._key, self._token, MARK) is False:
            return True
        self._timer = asyncio.get_running_loop().call_later(MARK / 3, self._renew)
        return False

    def lift(self) -> None:
        """Takes ours away."""
        if self._timer is not None:
            self._timer.cancel()
            self._redis.soon(self._redis.eval(_scripts()[0], [self._key], self._token))

    def _renew(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(MARK / 3, self._renew)
        self._redis.soon(self._redis.eval(_scripts()[1], [self._key], self._token, round(MARK * 1000)))


@cache
def _scripts() -> tuple[Script, Script]:
    from taskman_server.kit.redis import Script  # which the embedded shape does without

    return (
        Script("if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end return 1"),
        Script("if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 1"),
    )


class IdempotencyPruner:
    """Forgets keys that are older than `KEPT`. A `Worker` of every service."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def run(self) -> None:
        """Works until cancelled."""
        while True:
            try:
                await self.prune()
            except DatabaseError as error:
                self._runtime.telemetry.log.warning("old idempotency keys stay for now", error=str(error))
            await asyncio.sleep(_PRUNE_SECONDS)

    async def prune(self) -> None:
        """Forgets once."""
        async with self._runtime.db.transaction(durable=False, offload=True) as tx:
            await tx.execute(IDEMPOTENCY_PRUNE, before=self._runtime.clock.now() - KEPT)


def _scope(call: Call) -> str:
    return f"{call.principal.organization}/{call.principal.id}"


def _hash(request: codec.Message[Any]) -> str:
    return hashlib.sha256(codec.to_binary(request)).hexdigest()


def _in_flight(key: str) -> AbortedError:
    return AbortedError(
        f"A request with the Idempotency-Key {key!r} is still at work. Wait for its answer, or repeat this one later.",
        reason="IDEMPOTENCY_KEY_IN_FLIGHT",
        retry_after=1,
    )
