"""The URLs of the cluster shape's parts: checked before anybody connects, shown without their passwords.

A password with a `/`, `?` or `#` in it that is not written as %2F, %3F, %23 cuts its URL in two, and a part of it would
be taken for a host, a port or a database, which messages and `/readyz` name. Such a URL is refused.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import SplitResult, urlsplit

__all__ = ["address", "broker", "database", "redis", "without_password"]

_ESCAPED: Final = "in a password `/` is written %2F, `?` %3F, `#` %23, `@` %40, `:` %3A"
_IN_QUERY: Final = re.compile(r"([?&](?:ssl)?password=)[^&#]*", re.IGNORECASE)


def database(url: str, which: str = "") -> str:
    """The URL of a PostgreSQL database, several hosts with commas, or nothing; as it was given.

    Raises:
        ValueError: it is none. `which` begins the message, which holds no part of the URL.
    """
    wanted = f"{which}must be `postgresql://user:password@host:5432/database`"
    if url:
        parts = _parts(url, wanted)
        if parts.scheme not in ("postgresql", "postgres") or not parts.path.strip("/"):
            raise ValueError(wanted)
    return url


def redis(url: str) -> str:
    """The URL of a Redis, or nothing; raises as `database`."""
    wanted = "must be `redis://user:password@host:6379` or, with TLS, `rediss://…`"
    if url and _parts(url, wanted).scheme not in ("redis", "rediss", "unix"):
        raise ValueError(wanted)
    return url


def broker(url: str) -> str:
    """The URL of a RabbitMQ, or nothing; raises as `database`."""
    wanted = "must be `amqp://user:password@host:5672/vhost` or, with TLS, `amqps://…`"
    if url:
        parts = _parts(url, wanted)
        if parts.scheme not in ("amqp", "amqps") or not parts.hostname:
            raise ValueError(wanted)
    return url


def address(value: str) -> str:
    """Where a service is: one address or several, with commas between them.

    Raises:
        ValueError: there is none in it.
    """
    if not any(part.strip() for part in value.split(",")):
        raise ValueError("must be `host:port`, several with commas between them")
    return value


def without_password(url: str) -> str:
    """A URL for people to see: without what stands before the host, and without a password in the query."""
    scheme, _, rest = _IN_QUERY.sub(r"\1***", url).partition("://")
    end = next((place for place, letter in enumerate(rest) if letter in "/?#"), len(rest))
    where, path = rest[:end], rest[end:]
    # What stands before an @ behind the host is a piece of a password that was not escaped, or might be.
    where, path = ("@" + path.rpartition("@")[2], "") if "@" in path and "@" not in where else (where, path)
    return f"{scheme}://***@{where.rpartition('@')[2]}{path}" if "@" in where else f"{scheme}://{where}{path}"


def _parts(url: str, wanted: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        for host in parts.netloc.rpartition("@")[2].split(","):
            _ = urlsplit(f"//{host}").port
    except ValueError:
        raise ValueError(f"{wanted}; {_ESCAPED}") from None
    # PostgreSQL's may name the user in its query.
    query = "" if parts.scheme.startswith("postgres") else parts.query
    if "@" in f"{parts.path}{query}{parts.fragment}":
        raise ValueError(f"{wanted}; {_ESCAPED}")
    return parts
