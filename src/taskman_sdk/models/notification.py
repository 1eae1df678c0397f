# Generated from the contract by `python -m tools.protogen`. Do not edit.
"""Models of the area `notification`."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from taskman_sdk.models._base import Model

__all__ = [
    "DeleteWebhookResponse",
    "Delivery",
    "DeliveryAttempt",
    "ListDeliveriesResponse",
    "ListNotificationsResponse",
    "ListWebhooksResponse",
    "Notification",
    "Webhook",
]


class Notification(Model):
    """An entry of an inbox.

    Attributes:
        id: The id, `notification_…`.
        event_type: The event it tells of, for example `task.assigned`.
        event: The event's id.
        title: One line.
        body: More, as plain text.
        target: What it is about, for example `task_…`.
        read_time: When it was read; not set while unread.
        create_time: When it came.
    """

    id: str = Field(default="", description="The id, `notification_…`.")
    event_type: str = Field(default="", description="The event it tells of, for example `task.assigned`.")
    event: str = Field(default="", description="The event's id.")
    title: str = Field(default="", description="One line.")
    body: str = Field(default="", description="More, as plain text.")
    target: str = Field(default="", description="What it is about, for example `task_…`.")
    read_time: datetime | None = Field(default=None, description="When it was read; not set while unread.")
    create_time: datetime | None = Field(default=None, description="When it came.")


class ListNotificationsResponse(Model):
    """A page of the inbox.

    Attributes:
        notifications: The notifications, newest first.
        next_page_token: Empty on the last page.
    """

    notifications: list[Notification] = Field(default_factory=list, description="The notifications, newest first.")
    next_page_token: str = Field(default="", description="Empty on the last page.")


class Webhook(Model):
    """An address of another system that is told of events (Standard Webhooks).

    Attributes:
        id: The id, `webhook_…`.
        url: Where to POST: https, or http to loopback where private targets are allowed.
        event_types: The events to send, for example `task.created`, `task.*` or `*`; empty for all.
        disabled: Off: nothing is sent.
        secret: The signing secret, `whsec_…`; in the answer to the creation alone.
        description: What it is for.
        create_time: When the record was made.
        update_time: When it last changed.
        etag: Changes with every change.
    """

    id: str = Field(default="", description="The id, `webhook_…`.")
    url: str = Field(
        default="",
        max_length=2000,
        description="Where to POST: https, or http to loopback where private targets are allowed.",
    )
    event_types: list[str] = Field(
        default_factory=list,
        max_length=100,
        description="The events to send, for example `task.created`, `task.*` or `*`; empty for all.",
    )
    disabled: bool = Field(default=False, description="Off: nothing is sent.")
    secret: str = Field(
        default="", repr=False, description="The signing secret, `whsec_…`; in the answer to the creation alone."
    )
    description: str = Field(default="", max_length=1000, description="What it is for.")
    create_time: datetime | None = Field(default=None, description="When the record was made.")
    update_time: datetime | None = Field(default=None, description="When it last changed.")
    etag: str = Field(default="", max_length=64, description="Changes with every change.")


class DeleteWebhookResponse(Model):
    """The webhook is gone."""


class ListWebhooksResponse(Model):
    """A page of webhooks.

    Attributes:
        webhooks: The webhooks.
        next_page_token: Empty on the last page.
    """

    webhooks: list[Webhook] = Field(default_factory=list, description="The webhooks.")
    next_page_token: str = Field(default="", description="Empty on the last page.")


class DeliveryAttempt(Model):
    """One attempt of a delivery.

    Attributes:
        time: When.
        status_code: The status of the answer (HTTP or SMTP); 0 when there was none.
        error: What went wrong, in words; empty when nothing did.
        duration_ms: How long it took, in milliseconds.
    """

    time: datetime | None = Field(default=None, description="When.")
    status_code: int = Field(default=0, description="The status of the answer (HTTP or SMTP); 0 when there was none.")
    error: str = Field(default="", description="What went wrong, in words; empty when nothing did.")
    duration_ms: int = Field(default=0, description="How long it took, in milliseconds.")


class Delivery(Model):
    """One message to one receiver.

    Attributes:
        id: The id, `delivery_…`; the `webhook-id` of the request.
        channel: `email` or `webhook`.
        event_type: The event it tells of.
        event: The event's id.
        recipient: The address or URL.
        webhook: The webhook, where it is one.
        state: `pending`, `delivered` or `failed`.
        attempts: Every attempt, oldest first.
        next_attempt_time: When the next attempt is due, while pending.
        create_time: When the record was made.
    """

    id: str = Field(default="", description="The id, `delivery_…`; the `webhook-id` of the request.")
    channel: str = Field(default="", description="`email` or `webhook`.")
    event_type: str = Field(default="", description="The event it tells of.")
    event: str = Field(default="", description="The event's id.")
    recipient: str = Field(default="", description="The address or URL.")
    webhook: str = Field(default="", description="The webhook, where it is one.")
    state: str = Field(default="", description="`pending`, `delivered` or `failed`.")
    attempts: list[DeliveryAttempt] = Field(default_factory=list, description="Every attempt, oldest first.")
    next_attempt_time: datetime | None = Field(default=None, description="When the next attempt is due, while pending.")
    create_time: datetime | None = Field(default=None, description="When the record was made.")


class ListDeliveriesResponse(Model):
    """A page of deliveries.

    Attributes:
        deliveries: The deliveries, newest first.
        next_page_token: Empty on the last page.
    """

    deliveries: list[Delivery] = Field(default_factory=list, description="The deliveries, newest first.")
    next_page_token: str = Field(default="", description="Empty on the last page.")
