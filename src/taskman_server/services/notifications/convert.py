"""Rows to messages."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime

from taskman_sdk import codec
from taskman_sdk.proto.taskman.notification.v1.notification_pb import Delivery, DeliveryAttempt, Notification, Webhook
from taskman_server.kit.db import Row
from taskman_server.services.notifications.outcome import AttemptRow

__all__ = ["delivery_message", "etag", "notification_message", "webhook_message"]


def _time(value: datetime | None) -> codec.Timestamp | None:
    return None if value is None else codec.Timestamp.from_datetime(value)


def etag(row: Row) -> str:
    """Changes with every change of a webhook."""
    return hashlib.blake2b(f"{row.id}/{row.version}".encode(), digest_size=8).hexdigest()


def notification_message(row: Row, read_time: datetime | None = None) -> Notification:
    """An entry of an inbox; `read_time` where it was read just now."""
    return Notification(
        id=row.id,
        event_type=row.event_type,
        event=row.event,
        title=row.title,
        body=row.body,
        target=row.target,
        read_time=_time(row.read_time or read_time),
        create_time=_time(row.create_time),
    )


def webhook_message(row: Row, secret: str = "") -> Webhook:
    """A webhook; without its secret unless that is given."""
    return Webhook(
        id=row.id,
        url=row.url,
        event_types=list(row.event_types),
        disabled=row.disabled,
        secret=secret,
        description=row.description,
        create_time=_time(row.create_time),
        update_time=_time(row.update_time),
        etag=etag(row),
    )


def delivery_message(row: Row, attempts: Sequence[AttemptRow]) -> Delivery:
    """A delivery with its attempts; never with its content."""
    return Delivery(
        id=row.id,
        channel=row.channel,
        event_type=row.event_type,
        event=row.event,
        recipient=row.recipient,
        webhook=row.webhook,
        state=row.state,
        attempts=[
            DeliveryAttempt(
                time=_time(each.time), status_code=each.status_code, error=each.error, duration_ms=each.duration_ms
            )
            for each in attempts
        ],
        next_attempt_time=_time(row.next_attempt_time) if row.state == "pending" else None,
        create_time=_time(row.create_time),
    )
