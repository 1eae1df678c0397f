"""What notifications decide: who hears what, when to try again, which addresses may be called, how to sign. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlsplit

from taskman_sdk.errors import FieldViolation, InvalidArgumentError
from taskman_server.kit.events import Event

__all__ = [
    "DELAYS", "SECRET_PREFIX", "SENSITIVE_ATTEMPTS", "check_url", "host_of", "is_private", "is_reachable", "next_delay",
    "one_line", "retry_after", "rfc3339", "signature", "webhook_body", "webhook_secret", "webhook_wants",
]  # fmt: skip

DELAYS: Final = (5.0, 30.0, 120.0, 600.0, 3600.0, 14_400.0, 36_000.0)
"""Seconds between the eight attempts of a delivery: the last one comes some fifteen hours after the first."""
SENSITIVE_ATTEMPTS: Final = 5
"""A mail with a secret link is given up after a quarter of an hour: the link ages, and is not to lie about."""
MAX_RETRY_AFTER: Final = 86_400.0
SECRET_PREFIX: Final = "whsec_"
_OWN: Final = "notification."
_DELIVERIES: Final = ("notification.delivered", "notification.failed")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


def webhook_wants(event_types: Sequence[str], event: Event) -> bool:
    """Whether a webhook with these types is told of an event.

    Exact names, `task.*` for all that begins with `task.`, `*` or nothing for all. News of deliveries goes only where
    it is asked for by name (`notification.…`), and never about a delivery that told of a notification itself: each
    delivery would make the next.
    """
    name = event.name
    if name.startswith(_OWN):
        event_types = [kind for kind in event_types if kind.startswith(_OWN)]
        if not event_types:
            return False
        if name in _DELIVERIES:
            told = event.data.get("delivery", {}).get("event_type", "")
            if told.startswith(_OWN):
                return False
    if not event_types:
        return True
    return any(kind in ("*", name) or (kind.endswith(".*") and name.startswith(kind[:-1])) for kind in event_types)


def next_delay(tries: int, sensitive: bool, jitter: float, asked: float | None) -> float | None:
    """Seconds until the next attempt; None when the delivery is given up.

    Args:
        tries: how many attempts have failed in this round.
        sensitive: the delivery holds a secret.
        jitter: 0 to 1; spreads the delays over 80 to 120 %, so that what failed together does not come back together.
        asked: what the receiver said in `Retry-After`, in seconds.
    """
    if tries > len(DELAYS) or (sensitive and tries >= SENSITIVE_ATTEMPTS):
        return None
    delay = DELAYS[tries - 1] * (0.8 + 0.4 * jitter)
    return max(delay, min(asked, MAX_RETRY_AFTER)) if asked is not None else delay


def retry_after(header: str | None, now: datetime) -> float | None:
    """The seconds of a `Retry-After` header (RFC 9110 section 10.2.3); None when there is none that can be read."""
    if not header:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        time = parsedate_to_datetime(text)
    except (ValueError, IndexError, OverflowError):
        return None
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    return max(0.0, (time - now).total_seconds())


def one_line(text: str, limit: int = 200) -> str:
    """The text without line breaks and control characters, cut to a length: fit for a mail's header or a title."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in text)
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def rfc3339(time: datetime) -> str:
    """A time as JSON has it."""
    return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


# Webhooks: Standard Webhooks 1.0


def webhook_secret(random: bytes) -> str:
    """A signing secret from 24 to 64 random bytes."""
    return SECRET_PREFIX + base64.b64encode(random).decode()


def signature(secret: str, identifier: str, timestamp: int, body: str) -> str:
    """The `webhook-signature` header: `v1,` and HMAC-SHA256 over `id.timestamp.body`, base64.

    Raises:
        ValueError: the secret is none.
    """
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        raise ValueError("the webhook's secret is no base64") from None
    content = f"{identifier}.{timestamp}.{body}".encode()
    return "v1," + base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()


def webhook_body(event: Event) -> str:
    """What a webhook is sent: the event's name, time and data, and its id."""
    body: Mapping[str, Any] = {
        "type": event.name,
        "timestamp": rfc3339(event.time),
        "id": event.id,
        "actor": event.actor,
        "subject": event.subject,
        "data": event.data,
    }
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


# Addresses (NOTIFY-7)


def _embedded(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, where it does: a private one could hide in it."""
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return address.ipv4_mapped or address.sixtofour or address
    return address


def is_private(address: Address) -> bool:
    """Whether an address is anything but a public unicast one: loopback, private, shared, reserved …"""
    address = _embedded(address)
    return not address.is_global or address.is_multicast or address.is_reserved or address.is_unspecified


def is_reachable(address: Address, scheme: str, allow_private: bool) -> bool:
    """Whether a webhook may be sent to an address.

    Link-local addresses (cloud metadata lives there) never; private ones only where that is allowed; plain http only
    to private ones.
    """
    inner = _embedded(address)
    if inner.is_link_local or inner.is_multicast or inner.is_unspecified:
        return False
    private = is_private(address)
    if private and not allow_private:
        return False
    return scheme == "https" or private


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def check_url(url: str, allow_private: bool, field: str = "webhook.url") -> None:
    """Refuses a webhook's URL that could never be called.

    What a host name stands for is checked again at every attempt, when it is known.

    Raises:
        InvalidArgumentError: with what is wrong and what is wanted.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise _bad_url("it is not a URL", "WEBHOOK_URL_INVALID", field) from None
    if (
        parts.scheme not in ("https", "http")
        or not host
        or port == 0
        or not url.isascii()
        or not url.isprintable()
        or " " in url
    ):
        raise _bad_url("it must be https://host/path, in ASCII", "WEBHOOK_URL_INVALID", field)
    if parts.username is not None or parts.password is not None:
        raise _bad_url(
            "it must hold no user name or password; the signature shows that a call is ours",
            "WEBHOOK_URL_INVALID",
            field,
        )
    if parts.fragment:
        raise _bad_url("it must hold no #fragment", "WEBHOOK_URL_INVALID", field)
    if parts.scheme == "http" and not allow_private:
        raise _bad_url("it must begin with https://", "WEBHOOK_URL_NOT_HTTPS", field)
    address = _literal(host) or (ipaddress.IPv4Address("127.0.0.1") if _is_localhost(host) else None)
    if address is None:
        return
    if is_private(address) and not allow_private:
        raise _bad_url(
            f"{host} is not a public address; TASKMAN_WEBHOOK_ALLOW_PRIVATE allows it, for development",
            "WEBHOOK_URL_PRIVATE",
            field,
        )
    if not is_reachable(address, parts.scheme, allow_private):
        what = "plain http goes to private addresses alone" if not is_private(address) else f"{host} is never called"
        raise _bad_url(f"{what}; use an https:// URL", "WEBHOOK_URL_PRIVATE", field)


def host_of(url: str) -> str:
    """The host that a webhook's URL names, in one spelling; ports are not told apart."""
    return (urlsplit(url).hostname or "").rstrip(".")


def _is_localhost(host: str) -> bool:
    name = host.rstrip(".").lower()
    return name == "localhost" or name.endswith(".localhost")


def _bad_url(problem: str, reason: str, field: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"The webhook's URL cannot be used: {problem}.",
        reason=reason,
        field_violations=[FieldViolation(field, problem, "webhook_url")],
    )


def due(now: datetime, seconds: float) -> datetime:
    """The time so many seconds from now."""
    return now + timedelta(seconds=seconds)
