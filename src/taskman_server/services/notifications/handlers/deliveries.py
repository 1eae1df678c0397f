"""The RPCs of deliveries, and of mails that other services send (NOTIFY-1, NOTIFY-5)."""

from __future__ import annotations

from typing import Final

from taskman_sdk.errors import FieldViolation, InvalidArgumentError
from taskman_sdk.proto.taskman.notification.v1.notification_pb import (
    Delivery,
    GetDeliveryRequest,
    ListDeliveriesRequest,
    ListDeliveriesResponse,
    RetryDeliveryRequest,
    SendMailRequest,
    SendMailResponse,
)
from taskman_server.kit.db import Row
from taskman_server.kit.rpc.call import Call, not_found, precondition
from taskman_server.services.notifications.convert import delivery_message
from taskman_server.services.notifications.handlers.listing import Listing
from taskman_server.services.notifications.queue import DeliveryQueue
from taskman_server.services.notifications.store import NotificationStore
from taskman_server.services.notifications.tables import DELIVERIES

__all__ = ["DeliveryHandlers"]

READ: Final = "deliveries.read"
_LISTING: Final = Listing(
    DELIVERIES,
    Delivery,
    newest_first=True,
    policy={"resource.id": DELIVERIES.c.id, "resource.webhook": DELIVERIES.c.webhook},
)
# The texts that other services may send, and the event each tells of.
_MAILS: Final = {
    "password_reset": "auth.password.reset_requested",
    "set_up": "auth.set_up",
    "registration_repeated": "auth.registration.repeated",
}


class DeliveryHandlers:
    """Answers the RPCs of deliveries."""

    _store: NotificationStore
    _queue: DeliveryQueue

    async def list_deliveries(self, request: ListDeliveriesRequest, call: Call) -> ListDeliveriesResponse:
        """The deliveries of the organization, newest first, with their attempts."""
        rows, token = await _LISTING.page(self._store, call, request, scope=await call.scope())
        attempts = await self._store.attempts([row.id for row in rows])
        return ListDeliveriesResponse(
            deliveries=[delivery_message(row, attempts[row.id]) for row in rows], next_page_token=token
        )

    async def get_delivery(self, request: GetDeliveryRequest, call: Call) -> Delivery:
        """One delivery with its attempts."""
        row = await self._load_delivery(request.delivery, call)
        return delivery_message(row, (await self._store.attempts([row.id]))[row.id])

    async def retry_delivery(self, request: RetryDeliveryRequest, call: Call) -> Delivery:
        """Sends it again now, under the same id, with all its tries before it."""
        await self._load_delivery(request.delivery, call)
        tx = await call.begin()
        row = await self._store.delivery_for_update(tx, call.principal.organization, request.delivery)
        assert row is not None
        if row.payload is None:
            raise precondition(
                f"{row.id} held a secret, which was wiped when it ended. Let it be asked for anew.",
                "DELIVERY_CONTENT_WIPED",
                delivery=row.id,
            )
        if row.channel == "webhook":
            webhook = await self._store.webhook_for_update(tx, row.organization, row.webhook)
            if webhook is None or webhook.disabled:
                state = "deleted" if webhook is None else "disabled; enable it first"
                raise precondition(
                    f"{row.id} cannot be sent: its webhook is {state}.", "WEBHOOK_NOT_ACTIVE", webhook=row.webhook
                )
        await self._store.send_again(tx, row, call.now)
        self._queue.again(tx, row.channel)
        again = await self._store.delivery_for_update(tx, row.organization, row.id)
        assert again is not None
        return delivery_message(again, (await self._store.attempts([row.id], tx))[row.id])

    async def send_mail(self, request: SendMailRequest, call: Call) -> SendMailResponse:
        """Takes a mail for sending. What it says is kept until it was sent, and nowhere else."""
        event_type = _MAILS.get(request.template)
        if event_type is None:
            problem = f"there is no template {request.template!r}; there are {', '.join(_MAILS)}"
            raise InvalidArgumentError(
                f"The mail cannot be made: {problem}.",
                reason="MAIL_TEMPLATE_UNKNOWN",
                field_violations=[FieldViolation("template", problem, "mail")],
            )
        tx = await call.begin()
        delivery = await self._queue.mail(
            tx,
            request.template,
            {each.name: each.substitution for each in request.variables},
            organization=call.principal.organization,
            recipient=request.email,
            event_type=event_type,
            request_id=call.request_id,
            sensitive=True,
        )
        return SendMailResponse(delivery=delivery)

    async def _load_delivery(self, identifier: str, call: Call) -> Row:
        missing = not_found("delivery", identifier)
        row = await self._store.delivery(call.principal.organization, identifier)
        if row is None:
            raise missing
        await call.authorize({"id": row.id, "webhook": row.webhook}, hidden=missing, read_permission=READ)
        return row
