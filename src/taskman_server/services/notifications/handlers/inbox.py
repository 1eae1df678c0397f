"""The RPCs of the inbox: everybody's own (NOTIFY-3)."""

from __future__ import annotations

from typing import Final

from taskman_sdk.proto.taskman.notification.v1.notification_pb import (
    ListNotificationsRequest,
    ListNotificationsResponse,
    MarkNotificationReadRequest,
    Notification,
)
from taskman_server.kit.rpc.call import Call, not_found
from taskman_server.services.notifications.convert import notification_message
from taskman_server.services.notifications.handlers.listing import Listing
from taskman_server.services.notifications.store import NotificationStore
from taskman_server.services.notifications.tables import NOTIFICATIONS

__all__ = ["InboxHandlers"]

_LISTING: Final = Listing(NOTIFICATIONS, Notification, newest_first=True)


class InboxHandlers:
    """Answers the RPCs of the inbox."""

    _store: NotificationStore

    async def list_notifications(self, request: ListNotificationsRequest, call: Call) -> ListNotificationsResponse:
        """The caller's own, newest first."""
        own = NOTIFICATIONS.c.user == (call.principal.actor or call.principal.id)
        rows, token = await _LISTING.page(self._store, call, request, [own])
        return ListNotificationsResponse(
            notifications=[notification_message(row) for row in rows], next_page_token=token
        )

    async def mark_notification_read(self, request: MarkNotificationReadRequest, call: Call) -> Notification:
        """Notes when it was first read; another's is not there."""
        organization, user = call.principal.organization, call.principal.actor or call.principal.id
        row = await self._store.notification(organization, user, request.notification)
        if row is None:
            raise not_found("notification", request.notification)
        if row.read_time is not None:
            return notification_message(row)
        now = call.now
        tx = await call.begin()
        if not await self._store.mark_read(tx, organization, row.id, now):
            row = await self._store.notification(organization, user, row.id, tx)
            assert row is not None, "a notification is never deleted"
            return notification_message(row)
        return notification_message(row, read_time=now)
