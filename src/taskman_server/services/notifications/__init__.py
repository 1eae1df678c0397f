"""The Notification service: inbox, mail, signed webhooks, each attempt on record (NOTIFY-1, NOTIFY-2, NOTIFY-5).

What happens is written down in the transaction of its event; one worker sends what is due.
"""

from __future__ import annotations

from typing import Final

from taskman_server.kit.rpc.runtime import Runtime, ServiceDefinition, ServiceParts
from taskman_server.services.notifications.consumers import HEARS, NotificationConsumers
from taskman_server.services.notifications.forgetting import Forgetful, Forgetting
from taskman_server.services.notifications.handlers import NotificationHandlers
from taskman_server.services.notifications.mail import mail_sender
from taskman_server.services.notifications.queue import DeliveryQueue
from taskman_server.services.notifications.store import NotificationStore
from taskman_server.services.notifications.templating import Templates
from taskman_server.services.notifications.webhooks import WebhookSender
from taskman_server.services.notifications.worker import DeliveryWorker

__all__ = ["SERVICE"]


def _build(runtime: Runtime) -> ServiceParts:
    settings = runtime.settings
    store, templates = NotificationStore(runtime.db), Templates()
    forgetting = Forgetting(runtime.db, runtime.telemetry) if isinstance(runtime.db, Forgetful) else None
    worker = DeliveryWorker(
        runtime,
        store,
        templates,
        mail_sender(settings.smtp_url, settings.data / "mail"),
        WebhookSender(runtime.clock, allow_private=settings.webhook_allow_private),
        forgetting.wake if forgetting else lambda: None,
    )
    queue = DeliveryQueue(store, templates, runtime.clock, worker.wake)
    return ServiceParts(
        handlers=NotificationHandlers(runtime, store, queue),
        subscriptions=NotificationConsumers(runtime, store, queue).subscriptions(),
        workers=[worker, forgetting] if forgetting else [worker],
        wakes=[worker.wake],
    )


SERVICE: Final = ServiceDefinition(name="notifications", area="notification", build=_build, port_offset=6, hears=HEARS)
