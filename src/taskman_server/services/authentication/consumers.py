"""What the Authentication service hears: who exists, and who is shut out (OPEN-POINTS 2, AUTHN-4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from taskman_sdk import codec
from taskman_sdk.proto.taskman.user.v1.user_pb import UserEvent
from taskman_server.kit.db import Transaction
from taskman_server.kit.outbox import Event, RejectEvent, Subscription
from taskman_server.kit.rpc import Runtime
from taskman_server.services.authentication.store import AuthenticationStore

__all__ = ["HEARS", "QUEUE", "UserEvents"]

QUEUE: Final = "authentication.users"
HEARS: Final = {QUEUE: ("user.created", "user.updated", "user.deactivated", "user.activated")}
"""The queues of this service, and what each is bound to."""


class UserEvents:
    """Follows the users of the Users service."""

    def __init__(self, runtime: Runtime, store: AuthenticationStore) -> None:
        self._runtime = runtime
        self._store = store

    def subscriptions(self) -> Sequence[Subscription]:
        """What to listen to."""
        return [Subscription(QUEUE, HEARS[QUEUE], self.handle)]

    async def handle(self, event: Event, tx: Transaction) -> None:
        """Takes over one change of a user."""
        data = codec.from_value(UserEvent, event.data, ignore_unknown=True)
        if data.user is None or not data.user.id or not event.organization:
            raise RejectEvent("the event names no user or no organization")
        if event.name == "user.created":
            await self._created(event, data, tx)
        else:
            await self._changed(event, data, tx)

    async def _created(self, event: Event, data: UserEvent, tx: Transaction) -> None:
        assert data.user is not None
        # The password was put down before the user was made; it is still there only if that call was cut off.
        pending = await self._store.registration(tx, data.registration) if data.registration else None
        await self._store.add_credential(
            tx,
            user=data.user.id,
            organization=event.organization,
            email=data.user.email,
            password_hash=None if pending is None else pending.password_hash,
            now=self._runtime.clock.now(),
        )
        if pending is not None:
            await self._store.delete_registration(tx, pending.id)

    async def _changed(self, event: Event, data: UserEvent, tx: Transaction) -> None:
        assert data.user is not None
        user, organization, now = data.user, event.organization, self._runtime.clock.now()
        await self._store.set_identity(tx, organization, user.id, user.email, user.state or "active", now)
        if user.state == "deactivated":
            await self._store.end_sessions(tx, organization, user.id, "deactivated", now)
            await self._store.delete_action_tokens(tx, user.id, "password_reset")
