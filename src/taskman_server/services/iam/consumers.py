"""What IAM hears: a new user gets its first role. Of a user who is shut out nothing changes here: sign-in refuses."""

from __future__ import annotations

from typing import Final

from taskman_sdk import codec
from taskman_sdk.proto.taskman.user.v1.user_pb import UserEvent
from taskman_server.kit.db import Transaction
from taskman_server.kit.outbox import Event, RejectEvent, Subscription
from taskman_server.kit.rpc import Runtime
from taskman_server.services.iam import defaults
from taskman_server.services.iam.provisioning import provision
from taskman_server.services.iam.store import ROLES, IamStore

__all__ = ["HEARS", "IamConsumers"]

QUEUE: Final = "iam.user"
HEARS: Final = {QUEUE: ("user.created",)}
"""The queues of this service, and what each is bound to."""


class IamConsumers:
    """The effects of users' events."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._store = IamStore(runtime.db)

    def subscriptions(self) -> list[Subscription]:
        """One queue."""
        return [Subscription(QUEUE, HEARS[QUEUE], self.user_created)]

    async def user_created(self, event: Event, tx: Transaction) -> None:
        """Gives the user its first role, unless a direct call has done so.

        Raises:
            RejectEvent: the event names no user or no organization.
        """
        try:
            data = codec.from_value(UserEvent, event.data, ignore_unknown=True)
        except codec.DecodeError as error:
            raise RejectEvent(f"not a UserEvent: {error}") from None
        if data.user is None or not data.user.id or not event.organization:
            raise RejectEvent("the event names no user or no organization")
        await self._store.lock(tx, event.organization)
        role = data.default_role or defaults.DEFAULT_ROLE
        if defaults.system_role(role) is None:
            known = {row.name for row in await self._store.all(ROLES, event.organization, tx)}
            if role not in known:
                # The role went away between sign-up and here. The least one cannot give more than was meant.
                self._runtime.telemetry.log.warning("first role unknown", role=role, event_id=event.id)
                role = defaults.LEAST_ROLE
        context = self._runtime.context(
            event.organization,
            actor=event.actor,
            request_id=event.requestid,
            traceparent=event.traceparent,
            ip_address=event.ipaddress,
        )
        await provision(self._store, context, tx, event.organization, data.user.id, role)
