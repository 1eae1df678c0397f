"""The RPCs of `NotificationService`."""

from __future__ import annotations

from taskman_server.kit.rpc.runtime import Runtime
from taskman_server.services.notifications.handlers.deliveries import DeliveryHandlers
from taskman_server.services.notifications.handlers.inbox import InboxHandlers
from taskman_server.services.notifications.handlers.webhooks import WebhookHandlers
from taskman_server.services.notifications.queue import DeliveryQueue
from taskman_server.services.notifications.store import NotificationStore

__all__ = ["NotificationHandlers"]


class NotificationHandlers(InboxHandlers, WebhookHandlers, DeliveryHandlers):
    """Answers all of them."""

    def __init__(self, runtime: Runtime, store: NotificationStore, queue: DeliveryQueue) -> None:
        self._store = store
        self._queue = queue
        self._allow_private = runtime.settings.webhook_allow_private
