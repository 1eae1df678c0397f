"""Events heard: who there is to tell, and what to tell them. Rows alone are written here; the worker sends.

Nobody is told of their own action (OPEN-POINTS 9).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, TypeVar

from taskman_sdk import codec
from taskman_sdk.proto.taskman.authentication.v1.authentication_pb import AuthenticationEvent
from taskman_sdk.proto.taskman.task.v1.task_pb import TaskEvent
from taskman_sdk.proto.taskman.user.v1.user_pb import UserEvent
from taskman_server.kit.db import Transaction
from taskman_server.kit.ids import new_id
from taskman_server.kit.outbox import Event, RejectEvent, Subscription
from taskman_server.kit.rpc.runtime import Runtime
from taskman_server.services.notifications.queue import DeliveryQueue
from taskman_server.services.notifications.rules import one_line, webhook_body, webhook_wants
from taskman_server.services.notifications.store import NotificationStore

__all__ = ["HEARS", "NotificationConsumers"]

M = TypeVar("M", bound="codec.Message[Any]")
USERS: Final = "notifications.users"
PEOPLE: Final = "notifications.people"
WEBHOOKS: Final = "notifications.webhooks"
HEARS: Final = {
    USERS: ("user.created", "user.updated", "user.activated", "user.deactivated"),
    PEOPLE: ("task.assigned", "auth.registration.repeated"),
    WEBHOOKS: ("#",),
}
"""The queues of this service, and what each is bound to."""


class NotificationConsumers:
    """Events to inbox entries and deliveries."""

    def __init__(self, runtime: Runtime, store: NotificationStore, queue: DeliveryQueue) -> None:
        self._runtime = runtime
        self._store = store
        self._queue = queue

    def subscriptions(self) -> list[Subscription]:
        """A queue for each concern, so that one that stands does not hold up the others."""
        return [
            Subscription(USERS, HEARS[USERS], self.user_changed),
            Subscription(PEOPLE, HEARS[PEOPLE], self.tell_people),
            Subscription(WEBHOOKS, HEARS[WEBHOOKS], self.tell_webhooks, wanted=self.wanted_by_webhooks),
        ]

    async def user_changed(self, event: Event, tx: Transaction) -> None:
        """Keeps the copy of the user, and welcomes a new one."""
        payload = _read(UserEvent, event)
        user = payload.user
        if user is None or not user.id:
            raise RejectEvent("the event names no user")
        await self._store.keep_recipient(
            tx,
            user.id,
            organization=event.organization,
            email=user.email,
            display_name=user.display_name,
            locale=user.locale,
            active=user.state != "deactivated",
            event_time=event.time,
        )
        if event.name == "user.created" and user.email:
            await self._queue.mail(
                tx,
                "welcome" if payload.registration else "welcome_invited",
                {"display_name": user.display_name, "email": user.email},
                organization=event.organization,
                recipient=user.email,
                event_type=event.name,
                event=event.id,
                request_id=event.requestid,
            )

    async def tell_people(self, event: Event, tx: Transaction) -> None:
        """Tells the assignees of a task, or the owner of an address that was signed up again."""
        if event.name == "task.assigned":
            await self._assigned(event, tx)
            return
        user = _read(AuthenticationEvent, event).user
        if user:
            await self._queue.mail(
                tx,
                "registration_repeated",
                {},
                organization=event.organization,
                recipient=user,
                event_type=event.name,
                event=event.id,
                request_id=event.requestid,
            )

    async def _assigned(self, event: Event, tx: Transaction) -> None:
        payload = _read(TaskEvent, event)
        task = payload.task
        if task is None or not task.id:
            raise RejectEvent("the event names no task")
        label = task.key or task.id
        due = _day(task.due_time.to_datetime()) if task.due_time is not None else ""
        for user in dict.fromkeys(payload.users):
            if user == event.actor:
                continue
            await self._store.add_notification(
                tx,
                id=new_id("notification"),
                organization=event.organization,
                user=user,
                event_type=event.name,
                event=event.id,
                title=one_line(f"{label} was assigned to you: {task.title}"),
                body=task.title,
                target=task.id,
                create_time=self._runtime.clock.now(),
            )
            # The address is found when it is sent: the user's own event may not have come yet.
            await self._queue.mail(
                tx,
                "task_assigned",
                {"task": task.id, "key": label, "title": one_line(task.title) or label, "due": due},
                organization=event.organization,
                recipient=user,
                event_type=event.name,
                event=event.id,
                request_id=event.requestid,
            )

    async def wanted_by_webhooks(self, events: Sequence[Event]) -> list[Event]:
        """Those that a webhook of their organization is told of."""
        organizations = {event.organization for event in events if event.organization}
        webhooks = {each: await self._store.active_webhooks(each) for each in sorted(organizations)}
        return [
            event
            for event in events
            if any(webhook_wants(webhook.event_types, event) for webhook in webhooks.get(event.organization, ()))
        ]

    async def tell_webhooks(self, event: Event, tx: Transaction) -> None:
        """Makes a delivery for each webhook of the organization that wants the event."""
        webhooks = await self._store.active_webhooks(event.organization, tx)
        wanted = [webhook for webhook in webhooks if webhook_wants(webhook.event_types, event)]
        body = webhook_body(event) if wanted else ""
        for webhook in wanted:
            await self._queue.webhook(
                tx,
                body,
                organization=event.organization,
                webhook=webhook.id,
                url=webhook.url,
                event_type=event.name,
                event=event.id,
                request_id=event.requestid,
            )


def _read(kind: type[M], event: Event) -> M:
    try:
        return codec.from_value(kind, event.data, ignore_unknown=True)
    except codec.DecodeError:
        raise RejectEvent(f"the data is no {kind.__name__}") from None


def _day(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"
