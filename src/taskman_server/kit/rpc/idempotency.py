"""Idempotency keys: the same answer for the same request, recorded in the commit of its effect (GATE-5).

After the IETF draft `Idempotency-Key`: same key and same request replay the answer, another request with the key is
refused (422), one while the first is still at work too (409). A failed call leaves no record and may be repeated.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from taskman_sdk import codec
from taskman_sdk.errors import AbortedError, InvalidArgumentError
from taskman_server.kit.db import DatabaseError, UniqueViolation
from taskman_server.kit.outbox import IDEMPOTENCY_INSERT, IDEMPOTENCY_PRUNE, IDEMPOTENCY_SELECT

if TYPE_CHECKING:
    from taskman_server.kit.rpc.call import Call
    from taskman_server.kit.rpc.runtime import Runtime

__all__ = ["KEPT", "Idempotency", "IdempotencyPruner"]

MAX_KEY: Final = 255
KEPT: Final = timedelta(hours=24)
"""How long a key is remembered."""
_PRUNE_SECONDS: Final = 900.0


class Idempotency:
    """The keys of one service."""

    def __init__(self, runtime: Runtime) -> None:
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
        try:
            row = await self._db.fetch_one(IDEMPOTENCY_SELECT, scope=place[0], key=key)
            if row is None:
                return await handle()
        except UniqueViolation as error:
            if error.table == "idempotency":
                raise _in_flight(key) from None
            raise
        finally:
            self._in_flight.discard(place)
        if row.method != call.method.path or row.request_hash != _hash(request):
            raise InvalidArgumentError(
                f"The Idempotency-Key {key!r} was used for another request. Use a new key for a new request.",
                reason="IDEMPOTENCY_KEY_REUSED",
            )
        call.trailers["idempotency-replayed"] = "true"
        return codec.from_binary(call.method.output, row.response)

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
