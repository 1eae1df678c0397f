"""Webhooks out, after Standard Webhooks: signed, to checked addresses, no redirects (NOTIFY-2, NOTIFY-7)."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

import httpcore

from taskman_sdk._version import __version__
from taskman_server.kit.clock import Clock
from taskman_server.services.notifications.network import GuardedBackend, Refused, Resolver, resolve
from taskman_server.services.notifications.outcome import Outcome
from taskman_server.services.notifications.rules import retry_after, signature

__all__ = ["WebhookSender"]

TIMEOUT: Final = 15.0
MAX_ANSWER: Final = 4096


class WebhookSender:
    """POSTs events."""

    def __init__(
        self,
        clock: Clock,
        *,
        allow_private: bool,
        tls: ssl.SSLContext | None = None,
        resolver: Resolver = resolve,
        timeout: float = TIMEOUT,
    ) -> None:
        """Args:
        clock: the time, for signatures.
        allow_private: loopback and private networks may be called.
        tls: which certificates are believed; the machine's when None.
        resolver: names to addresses.
        timeout: seconds for the whole of a call.
        """
        self._clock = clock
        self._allow_private = allow_private
        self._tls = tls or ssl.create_default_context()
        self._resolver = resolver
        self._timeout = timeout

    async def send(self, url: str, secret: str, delivery: str, body: str) -> Outcome:
        """Makes one attempt; what came of it, never an exception for what the receiver does.

        Args:
            url: where to.
            secret: signs.
            delivery: the `webhook-id`; the same at every attempt.
            body: JSON.
        """
        now = self._clock.now()
        timestamp = int(now.timestamp())
        headers = {
            "content-type": "application/json",
            "user-agent": f"TaskMan-Webhooks/{__version__}",
            "accept": "*/*",
            "connection": "close",
            "webhook-id": delivery,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(secret, delivery, timestamp, body),
        }
        try:
            async with asyncio.timeout(self._timeout):
                status, asked = await self._post(url, headers, body.encode())
        except Refused as error:
            return Outcome("retry", 0, f"Not called: {error}.", note=error.note)
        except (TimeoutError, httpcore.TimeoutException):
            return Outcome("retry", 0, f"No answer within {self._timeout:g} seconds.")
        except (httpcore.NetworkError, httpcore.ProtocolError, ssl.SSLError, OSError, UnicodeError) as error:
            return Outcome("retry", 0, f"The call failed: {_words(error)}.")
        return _outcome(status, retry_after(asked, now))

    async def _post(self, url: str, headers: Mapping[str, str], content: bytes) -> tuple[int, str | None]:
        backend = GuardedBackend(urlsplit(url).scheme, self._allow_private, self._resolver)
        # A pool for one call: no connection is shared between organizations, and every call is checked anew.
        async with (
            httpcore.AsyncConnectionPool(ssl_context=self._tls, network_backend=backend, max_connections=1) as pool,
            pool.stream("POST", url, headers=list(headers.items()), content=content) as response,
        ):
            asked = next((v.decode("latin-1") for k, v in response.headers if k.lower() == b"retry-after"), None)
            read = 0
            # Some receivers take a call for broken when their answer is not read; a long one is not read to its end.
            async for chunk in response.aiter_stream():
                read += len(chunk)
                if read > MAX_ANSWER:
                    break
            return response.status, asked


def _outcome(status: int, asked: float | None) -> Outcome:
    if 200 <= status < 300:
        return Outcome("delivered", status)
    if status == 410:
        return Outcome("gone", status, "The receiver answered 410: it wants no more calls. The webhook was disabled.")
    if 300 <= status < 400:
        return Outcome("retry", status, f"The receiver answered {status}: redirects are not followed.", asked)
    return Outcome("retry", status, f"The receiver answered {status}.", asked)


def _words(error: BaseException) -> str:
    text = f"{error} {error.__cause__ or ''}".lower()
    if isinstance(error, ssl.SSLError) or "certificate" in text or "ssl" in text:
        return "its certificate or TLS is not good"
    if "resolved" in text or "no address" in text:
        return "its name has no address"
    if isinstance(error, httpcore.ConnectError):
        return "no connection"
    if isinstance(error, httpcore.ProtocolError):
        return "its answer is not HTTP"
    return "the connection broke"
