"""Messages as AMQP carries them.

The envelope is the body, as CloudEvents' AMQP binding has it in structured mode. What the broker's users need without
reading it stands beside: the id as the message id, the event's name as the type (a message that was sent back from a
dead-letter queue has lost its routing key), the key as a header.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import aio_pika
from aio_pika import DeliveryMode

from taskman_server.kit.broker import DeadLetter, Message
from taskman_server.kit.broker.lanes import Item

if TYPE_CHECKING:
    from aiormq.abc import DeliveredMessage

CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"

_KEY = "x-taskman-key"
_REDRIVEN = "x-taskman-redriven"
_REASON = "x-taskman-reason"
_ATTEMPTS = "x-taskman-attempts"
_TIME = "x-taskman-time"
_DEATH = "x-death"
_TRACE = re.compile(r'"traceparent":"([0-9a-f-]{55})"')


def encode(message: Message, **headers: Any) -> aio_pika.Message:
    """A persistent message."""
    values = {_KEY: message.key, **headers}
    trace = _TRACE.search(message.body, 0, message.body.find(',"data":'))
    if trace is not None:
        values["traceparent"] = trace[1]
    return aio_pika.Message(
        message.body.encode(),
        headers=values,
        content_type=CONTENT_TYPE,
        delivery_mode=DeliveryMode.PERSISTENT,
        message_id=message.id,
        type=message.name,
    )


def encode_redriven(message: Message) -> aio_pika.Message:
    """A message that an operator sends back to its queue."""
    return encode(message, **{_REDRIVEN: True})


def encode_dead(message: Message, reason: str, attempts: int, time: datetime) -> aio_pika.Message:
    """A message that is given up."""
    return encode(message, **{_REASON: reason, _ATTEMPTS: attempts, _TIME: time.isoformat()})


def headers_of(raw: DeliveredMessage) -> Mapping[str, Any]:
    """The headers; empty when there are none."""
    return raw.header.properties.headers or {}


def decode(raw: DeliveredMessage) -> Message:
    """The message in a delivery, also when it is none of ours: the consumer rejects its envelope then."""
    properties = raw.header.properties
    return Message(
        id=str(properties.message_id or ""),
        name=str(properties.message_type or raw.routing_key or ""),
        key=str(headers_of(raw).get(_KEY, "")),
        body=raw.body.decode("utf-8", "replace"),
    )


def decode_item(raw: DeliveredMessage) -> Item:
    """A delivery. What came back was delivered once as far as RabbitMQ knows; `attempts` may know more."""
    return Item(
        sequence=raw.delivery_tag or 0,
        message=decode(raw),
        attempts=int(bool(raw.redelivered)),
        redriven=bool(headers_of(raw).get(_REDRIVEN)),
    )


def decode_dead(raw: DeliveredMessage, queue: str) -> DeadLetter:
    """A message of a dead-letter queue, given up by a consumer of ours or by RabbitMQ itself."""
    headers = headers_of(raw)
    death: Mapping[str, Any] = next(iter(headers.get(_DEATH) or []), {})
    time = death.get("time")
    try:
        time = datetime.fromisoformat(str(headers[_TIME]))
    except (KeyError, ValueError):
        time = time if isinstance(time, datetime) else datetime.fromtimestamp(0, UTC)
    if _REASON in headers:
        reason, attempts = str(headers[_REASON]), int(headers.get(_ATTEMPTS, 0))
    else:
        attempts = int(death.get("count", 0))
        reason = f"RabbitMQ gave it up: {death.get('reason', 'it does not say why')}"
    return DeadLetter(decode(raw), queue, attempts, reason, time.astimezone(UTC))
