"""A role that ends by itself, without an event: plans that are remembered end with it (IAM-1, AUTHZ-4)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

import taskman_server
from taskman_sdk.errors import PermissionDeniedError
from taskman_server.kit.clock import ManualClock

PASSWORD = "correct horse battery staple"


async def test_a_role_works_until_its_end_and_no_longer() -> None:
    """IAM-1: nothing is committed at that moment, and the plan from before would otherwise count on."""
    clock = ManualClock(datetime.now(UTC))
    async with taskman_server.embedded(
        clock=clock, password_hash="fast", admin_email="root@example.org", admin_password=PASSWORD
    ) as app:
        admin, ada = app.client(), app.client()
        await admin.auth.login(email="root@example.org", password=PASSWORD)
        await ada.auth.register(email="ada@example.org", password=PASSWORD, display_name="Ada")
        await app.settled()
        await ada.auth.login(email="ada@example.org", password=PASSWORD)
        who = await ada.users.get_me()
        await admin.assignments.create(principal=who.id, role="admin", expire_time=clock.now() + timedelta(seconds=60))
        await app.settled()
        assert [event async for event in ada.audit.list(page_size=100)]
        clock.advance(59.9)
        assert [event async for event in ada.audit.list(page_size=100)]
        clock.advance(0.1)
        with pytest.raises(PermissionDeniedError):
            await anext(aiter(ada.audit.list(page_size=1)))
