"""What Authorization hears: every change of roles, policies and assignments."""

from __future__ import annotations

from typing import Final

from taskman_sdk import codec, contract
from taskman_sdk.proto.taskman.iam.v1.iam_pb import (
    Assignment,
    AssignmentEvent,
    Policy,
    PolicyEvent,
    Role,
    RoleEvent,
)
from taskman_server.kit.db import Transaction
from taskman_server.kit.outbox import Event, RejectEvent, Subscription
from taskman_server.services.authorization.copy import Copy

__all__ = ["HEARS", "AuthorizationConsumers"]

QUEUE: Final = "authorization.iam"
HEARS: Final = {QUEUE: tuple(name for name, kind in contract.events().items() if kind.area == "iam")}
"""The queues of this service, and what each is bound to."""


class AuthorizationConsumers:
    """The effects of IAM's events on the copy."""

    def __init__(self, copy: Copy) -> None:
        self._copy = copy

    def subscriptions(self) -> list[Subscription]:
        """One queue."""
        return [Subscription(QUEUE, HEARS[QUEUE], self.iam_changed)]

    async def iam_changed(self, event: Event, tx: Transaction) -> None:
        """Takes the change into the copy.

        Raises:
            RejectEvent: the event does not say what changed, where, or at which version.
        """
        try:
            data = codec.from_value(contract.event(event.name).payload, event.data, ignore_unknown=True)
        except (KeyError, codec.DecodeError) as error:
            raise RejectEvent(f"not an event of IAM's: {error}") from None
        message: Role | Policy | Assignment | None
        if isinstance(data, RoleEvent):
            message, version = data.role, data.version
        elif isinstance(data, PolicyEvent):
            message, version = data.policy, data.version
        elif isinstance(data, AssignmentEvent):
            message, version = data.assignment, data.version
        else:
            raise RejectEvent(f"not an event of IAM's: {event.name}")
        if message is None or not message.id or version < 1 or not event.organization:
            raise RejectEvent("the event does not say what changed, where, or at which version")
        gone = event.name.endswith(".deleted")
        await self._copy.apply(tx, event.organization, message, version, gone=gone)
