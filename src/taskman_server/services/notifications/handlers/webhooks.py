"""The RPCs of webhooks (NOTIFY-2)."""

from __future__ import annotations

import secrets
from typing import Final

from taskman_sdk.errors import FieldViolation, InvalidArgumentError
from taskman_sdk.proto.taskman.notification.v1.notification_pb import (
    CreateWebhookRequest,
    DeleteWebhookRequest,
    DeleteWebhookResponse,
    GetWebhookRequest,
    ListWebhooksRequest,
    ListWebhooksResponse,
    UpdateWebhookRequest,
    Webhook,
    WebhookEvent,
)
from taskman_server.kit.db import Row, Transaction
from taskman_server.kit.ids import new_id
from taskman_server.kit.masks import changed_paths
from taskman_server.kit.rpc.call import Call, not_found, precondition
from taskman_server.services.notifications.convert import etag, webhook_message
from taskman_server.services.notifications.handlers.listing import Listing
from taskman_server.services.notifications.rules import check_url, webhook_secret
from taskman_server.services.notifications.store import NotificationStore
from taskman_server.services.notifications.tables import WEBHOOKS

__all__ = ["MAX_WEBHOOKS", "WebhookHandlers"]

MAX_WEBHOOKS: Final = 50
"""Of one organization: each event may make a delivery to each of them."""
READ: Final = "webhooks.read"
_MUTABLE: Final = ("url", "event_types", "disabled", "description")
_LISTING: Final = Listing(
    WEBHOOKS,
    Webhook,
    newest_first=False,
    exclude=("etag", "secret"),
    policy={"resource.id": WEBHOOKS.c.id, "resource.webhook": WEBHOOKS.c.id},
)


class WebhookHandlers:
    """Answers the RPCs of webhooks."""

    _store: NotificationStore
    _allow_private: bool

    async def create_webhook(self, request: CreateWebhookRequest, call: Call) -> Webhook:
        """Makes one; this answer alone holds its secret. An organization has `MAX_WEBHOOKS` of them at most."""
        wanted = request.webhook
        assert wanted is not None
        identifier = new_id("webhook")
        await call.authorize({"id": identifier, "webhook": identifier})
        self._check(wanted.url)
        secret = webhook_secret(secrets.token_bytes(32))
        now = call.now
        tx = await call.begin()
        if await self._store.count_webhooks(tx, call.principal.organization) >= MAX_WEBHOOKS:
            raise precondition(
                f"The organization has {MAX_WEBHOOKS} webhooks, which is as many as it may have. Delete one that is not"
                " needed, or let one hear more event types.",
                "WEBHOOK_LIMIT",
                limit=str(MAX_WEBHOOKS),
            )
        await self._store.add_webhook(
            tx,
            id=identifier,
            organization=call.principal.organization,
            url=wanted.url,
            event_types=list(dict.fromkeys(wanted.event_types)),
            disabled=wanted.disabled,
            secret=secret,
            description=wanted.description,
            create_time=now,
            update_time=now,
        )
        row = await self._again(tx, call, identifier)
        event = WebhookEvent(webhook=webhook_message(row))
        await call.emit(tx, "notification.webhook.created", event, subject=identifier)
        return webhook_message(row, secret)

    async def get_webhook(self, request: GetWebhookRequest, call: Call) -> Webhook:
        """One webhook, without its secret."""
        return webhook_message(await self._load(request.webhook, call))

    async def update_webhook(self, request: UpdateWebhookRequest, call: Call) -> Webhook:
        """Changes the fields named in the mask."""
        wanted = request.webhook
        assert wanted is not None
        await self._load(wanted.id, call)
        paths = changed_paths(wanted, request.update_mask, _MUTABLE, "webhook")
        if "url" in paths:
            self._check(wanted.url)
        tx = await call.begin()
        row = await self._again(tx, call, wanted.id)
        call.check_etag(wanted.etag, etag(row), "The webhook")
        changes = {path: getattr(wanted, path) for path in paths}
        if "event_types" in changes:
            changes["event_types"] = list(dict.fromkeys(wanted.event_types))
        if all(getattr(row, path) == value for path, value in changes.items()):
            return webhook_message(row)
        await self._store.change_webhook(tx, row, call.now, **changes)
        changed = await self._again(tx, call, wanted.id)
        event = WebhookEvent(webhook=webhook_message(changed), before=webhook_message(row))
        await call.emit(tx, "notification.webhook.updated", event, subject=row.id)
        return webhook_message(changed)

    async def delete_webhook(self, request: DeleteWebhookRequest, call: Call) -> DeleteWebhookResponse:
        """Deletes one; what it was sent stays on record, what waits for it fails."""
        await self._load(request.webhook, call)
        tx = await call.begin()
        row = await self._again(tx, call, request.webhook)
        call.check_etag(request.etag, etag(row), "The webhook")
        await self._store.remove_webhook(tx, row.organization, row.id)
        event = WebhookEvent(webhook=webhook_message(row))
        await call.emit(tx, "notification.webhook.deleted", event, subject=row.id)
        return DeleteWebhookResponse()

    async def list_webhooks(self, request: ListWebhooksRequest, call: Call) -> ListWebhooksResponse:
        """The webhooks of the organization, oldest first."""
        rows, token = await _LISTING.page(self._store, call, request, scope=await call.scope())
        return ListWebhooksResponse(webhooks=[webhook_message(row) for row in rows], next_page_token=token)

    async def _load(self, identifier: str, call: Call) -> Row:
        missing = not_found("webhook", identifier)
        row = await self._store.webhook(call.principal.organization, identifier)
        if row is None:
            raise missing
        await call.authorize({"id": row.id, "webhook": row.id}, hidden=missing, read_permission=READ)
        return row

    async def _again(self, tx: Transaction, call: Call, identifier: str) -> Row:
        row = await self._store.webhook_for_update(tx, call.principal.organization, identifier)
        if row is None:
            raise not_found("webhook", identifier)
        return row

    def _check(self, url: str) -> None:
        if not url:
            raise InvalidArgumentError(
                "A webhook needs a `url`: where the events are to be sent.",
                reason="WEBHOOK_URL_MISSING",
                field_violations=[FieldViolation("webhook.url", "must be given", "required")],
            )
        check_url(url, self._allow_private)
