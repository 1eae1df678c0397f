"""How a delivery comes to be: a row in the transaction of its reason, and a call to the worker when that is durable."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial

from taskman_server.kit.clock import Clock
from taskman_server.kit.db import Transaction
from taskman_server.kit.ids import new_id
from taskman_server.services.notifications.store import NotificationStore
from taskman_server.services.notifications.templating import Templates

__all__ = ["DeliveryQueue"]


class DeliveryQueue:
    """Where deliveries are put."""

    def __init__(
        self, store: NotificationStore, templates: Templates, clock: Clock, wake: Callable[[str], None]
    ) -> None:
        """`wake` is called after each commit that holds a new delivery, with its channel."""
        self._store = store
        self._templates = templates
        self._clock = clock
        self._wake = wake

    async def mail(
        self,
        tx: Transaction,
        template: str,
        variables: Mapping[str, str],
        *,
        organization: str,
        recipient: str,
        event_type: str,
        event: str = "",
        request_id: str = "",
        sensitive: bool = False,
    ) -> str:
        """Mails one of the shipped texts; the delivery's id.

        Args:
            tx: the transaction of its reason.
            template: which text.
            variables: what it says; kept only until it was sent when `sensitive`.
            organization: whose delivery it is.
            recipient: an address, or the id of a user whose address the worker is to find.
            event_type: the event it tells of.
            event: that event's id.
            request_id: the request it came from.
            sensitive: the variables hold a secret.

        Raises:
            InvalidArgumentError: the text cannot be made of these variables.
        """
        self._templates.check(template, variables)
        payload = json.dumps({"template": template, "variables": dict(variables)}, ensure_ascii=False)
        return await self._put(
            tx,
            organization=organization,
            channel="email",
            event_type=event_type,
            event=event,
            recipient=recipient,
            webhook="",
            request_id=request_id,
            sensitive=sensitive,
            payload=payload,
        )

    async def webhook(
        self,
        tx: Transaction,
        body: str,
        *,
        organization: str,
        webhook: str,
        url: str,
        event_type: str,
        event: str,
        request_id: str,
    ) -> str:
        """Sends a body to a webhook; the delivery's id."""
        return await self._put(
            tx,
            organization=organization,
            channel="webhook",
            event_type=event_type,
            event=event,
            recipient=url,
            webhook=webhook,
            request_id=request_id,
            sensitive=False,
            payload=body,
        )

    def again(self, tx: Transaction, channel: str) -> None:
        """A delivery over a channel was made due anew."""
        tx.on_commit(partial(self._wake, channel))

    async def _put(self, tx: Transaction, *, channel: str, **values: object) -> str:
        identifier = new_id("delivery")
        await self._store.add_delivery(tx, self._clock.now(), id=identifier, channel=channel, **values)
        self.again(tx, channel)
        return identifier
