"""Idempotency keys are remembered for a day (GATE-5)."""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta

import taskman_server
from taskman_sdk.errors import AlreadyExistsError, TaskManError
from taskman_server.kit.clock import ManualClock
from taskman_server.kit.rpc.idempotency import KEPT, IdempotencyPruner


async def _code(create: Awaitable[object]) -> str:
    try:
        await create
    except TaskManError as error:
        return error.code
    return "OK"


async def test_a_key_is_forgotten_after_a_day_and_not_before() -> None:
    """GATE-5: a repetition within a day answers the same; after that the key is as good as new."""
    clock = ManualClock(datetime.now(UTC))
    password = "correct horse battery staple"
    async with taskman_server.embedded(clock=clock, password_hash="fast", access_token_seconds=86400) as app:
        client = app.client()
        await client.auth.register(email="ada@example.org", password=password, display_name="Ada")

        async def create(key: str) -> str:
            await client.auth.login(email="ada@example.org", password=password)
            return await _code(client.projects.create(key="WEB", display_name="Web", idempotency_key=key))

        assert await create("once") == "OK"
        clock.advance(KEPT.total_seconds() - 60)
        await IdempotencyPruner(app.runtime("tasks")).prune()
        assert await create("once") == "OK", "the answer of the first request is replayed"
        clock.advance(timedelta(minutes=2).total_seconds())
        await IdempotencyPruner(app.runtime("tasks")).prune()
        assert await create("once") == AlreadyExistsError.code, "the key is forgotten, the project is not"
