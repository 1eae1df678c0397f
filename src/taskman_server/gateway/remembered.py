"""Whole answers, remembered for as long as the same question would get the same one.

A service in this process may say of an answer how to tell that (`CallOptions.repeats`): for a task, that its row is
still the one it was made of, and that the plan of who asks allows to read it. So of a second request the head is
enough: whose token it is, whether that is within the limit, and what `repeats` says. Everything else on the path of a
request would come to the same bytes.

Whatever cannot be told at once, and a request that asks for more than the answer (a deadline, a trace), takes the path
of all others, which also knows how to refuse.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from cachebox import LRUCache

from taskman_server.gateway.http import Headers, Request, limit_headers
from taskman_server.kit.forwarded import HEADER, Networks, client_address
from taskman_server.kit.ids import request_id_of

if TYPE_CHECKING:
    from taskman_sdk.contract import Method
    from taskman_server.kit.clock import Clock
    from taskman_server.kit.identity import Authenticator
    from taskman_server.kit.limits import Limiter
    from taskman_server.kit.rpc import Principal
    from taskman_server.kit.telemetry import Telemetry

__all__ = ["Remembered"]

_SIZE: Final = 10_000
_LARGEST: Final = 8 << 10  # bytes of a body; most have 1 or 2 KB
_BEARER: Final = b"Bearer "
_FORWARDED: Final = HEADER.encode()
_MORE: Final = frozenset({
    b"content-length", b"expect", b"if-match", b"traceparent", b"transfer-encoding", b"upgrade", b"x-request-timeout",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Answer:
    route: str
    path: str
    head: bytes
    body: bytes
    repeats: Callable[[Principal, datetime], bool]


class Remembered:
    """The answers used last, by the target of the request."""

    def __init__(
        self,
        authenticator: Authenticator,
        limiter: Limiter | None,
        clock: Clock,
        telemetry: Telemetry,
        trusted: Networks,
    ) -> None:
        """Args:
        authenticator: tokens to principals.
        limiter: the limit of requests, if there is one.
        clock: the time.
        telemetry: logs and metrics. Where it makes spans nothing is remembered: they tell of the whole path.
        trusted: the networks of our proxies.
        """
        self._authenticator = authenticator
        self._limiter = limiter
        self._clock = clock
        self._telemetry = telemetry
        self._trusted = trusted
        self._use = telemetry.cache("answers")
        self._known: LRUCache[bytes, _Answer] = LRUCache(_SIZE)

    def keep(
        self,
        request: Request,
        method: Method,
        headers: Headers,
        body: bytes,
        repeats: Callable[[Principal, datetime], bool],
    ) -> None:
        """Remembers a 200.

        Args:
            request: what was asked.
            method: what it was a call of.
            headers: those of the answer that have nothing to do with who asked.
            body: of the answer.
            repeats: see `CallOptions.repeats`.
        """
        if request.verb != "GET" or request.query or len(body) > _LARGEST or self._telemetry.traced:
            return
        self._use.misses += 1
        head = b"".join([b"%s: %s\r\n" % header for header in headers])
        answer = _Answer(method.operation_id, request.path, b"HTTP/1.1 200 OK\r\n" + head, body, repeats)
        self._known.insert(request.path.encode("latin-1"), answer)

    def answer(self, target: bytes, headers: Iterable[tuple[bytes, bytes]], address: str) -> bytes | None:
        """The whole answer to a GET without a body; None where the request has to be worked on.

        Args:
            target: path and query as sent.
            headers: of the request, names in lower case.
            address: whose connection it is.
        """
        known: _Answer | None = self._known.get(target)
        if known is None:
            return None
        started = time.perf_counter()
        authorization, given, forwarded = b"", b"", b""
        for name, value in headers:
            if name == b"authorization":
                authorization = value
            elif name == b"x-request-id":
                given = value
            elif name == _FORWARDED:
                forwarded = value
            elif name in _MORE:
                return None
        if not authorization.startswith(_BEARER):
            return None
        principal = self._authenticator.known(authorization[len(_BEARER) :].strip())
        if principal is None or not known.repeats(principal, self._clock.now()):
            return None
        limits: Headers = []
        if self._limiter is not None:
            verdict = self._limiter.take(principal.id, refuse=False)
            if verdict is None:
                return None
            limits = limit_headers(self._limiter, verdict)
        request_id = request_id_of(given.decode("latin-1"))
        self._use.hits += 1
        self._telemetry.request(
            verb="GET",
            route=known.route,
            path=known.path,
            status=200,
            seconds=time.perf_counter() - started,
            principal=principal.id,
            request_id=request_id,
            ip_address=client_address(address, forwarded.decode("latin-1"), self._trusted),
            reason="",
        )
        return b"%s%sx-request-id: %s\r\n\r\n%s" % (
            known.head,
            b"".join([b"%s: %s\r\n" % header for header in limits]),
            request_id.encode(),
            known.body,
        )
