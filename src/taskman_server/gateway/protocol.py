"""HTTP at the socket: a request's head has a size and a time, before anything is made of it (GATE-4, GATE-9).

uvicorn's parser keeps a header that is still coming in memory, however long it gets, and waits for the rest of a head
for as long as the client likes. Both are bounded here. What it writes piece by piece goes out as one (`_Cork`). Whoever
the application's `admission` does not let in is told so before anything is made of the request, and an answer that it
has `remembered` is given at once.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from taskman_sdk import wire
from taskman_sdk.errors import InvalidArgumentError, TaskManError, UnavailableError
from taskman_server.kit.ids import request_id_of

if TYPE_CHECKING:
    from taskman_server.gateway.admission import Admission
    from taskman_server.gateway.remembered import Remembered

__all__ = ["MAX_HEAD", "MAX_HEAD_SECONDS", "BoundedProtocol"]

MAX_HEAD: Final = 64 << 10
"""Bytes of a request's line and headers together."""
MAX_HEAD_SECONDS: Final = 10.0
"""Seconds from the first byte of a head (or from connecting) to its last."""
_CORKED: Final = 128 << 10
"""Bytes of an answer that wait for the end of the turn; a page of a list has some 60,000. Not before that end is its
request no more in the system, so that whoever has it cannot come with the next one as if that were one more."""

_TOO_LARGE: Final = InvalidArgumentError(
    f"The head of the request is larger than {MAX_HEAD} bytes.", reason="REQUEST_HEADERS_TOO_LARGE"
)


_FULL: Final = UnavailableError(
    "The server has more to do than it can. Try again in a second.", reason="SERVER_OVERLOADED", retry_after=1
)


def _problem(error: TaskManError) -> bytes:
    return json.dumps(wire.to_problem(error), separators=(",", ":")).encode()


def _refusal() -> bytes:
    body = _problem(_TOO_LARGE)
    return (
        b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/problem+json\r\n"
        b"content-length: %d\r\nconnection: close\r\n\r\n%s" % (len(body), body)
    )


_REFUSAL: Final = _refusal()
_FULL_BODY: Final = _problem(_FULL)
_FULL_HEAD: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\ncontent-length: %d\r\n"
    b"retry-after: 1\r\ncache-control: no-store\r\n" % len(_FULL_BODY)
)


class _Cork(asyncio.Transport):
    """A transport that joins what is written in one turn of the event loop.

    uvicorn writes the head and the body of an answer one after the other: two system calls and two packets, a fifth of
    the time of a short answer.
    """

    __slots__ = ("_loop", "_pending", "_size", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._pending: list[bytes | bytearray | memoryview] = []
        self._size = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._pending:
            self._loop.call_soon(self._flush)
        self._pending.append(data)
        self._size += len(data)
        if self._size > _CORKED:  # a stream: the transport has to tell it when to wait
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            pending, self._pending, self._size = self._pending, [], 0
            self._transport.write(b"".join(pending))

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with bounds on the head."""

    _reading_head = True
    _head_size = 0
    _late: asyncio.TimerHandle | None = None
    _admission: Admission | None = None
    _remembered: Remembered | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(_Cork(transport, self.loop))
        self._admission = getattr(self.app, "admission", None)
        self._remembered = getattr(self.app, "remembered", None)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._head_is_whole()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._reading_head:
            self._head_size += len(data)
        super().data_received(data)
        if self._reading_head and self._head_size > MAX_HEAD:
            self._refuse()

    def on_message_begin(self) -> None:
        """The parser's first byte of a request."""
        super().on_message_begin()
        if not self._reading_head:
            self._expect_head()

    def on_headers_complete(self) -> None:
        """The parser's last byte of a head."""
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        self._head_is_whole()
        if size > MAX_HEAD:
            self._refuse()
            return
        # While an earlier request of the connection is answered, this one's turn to be told has not come.
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self._remembered is not None and self._repeat(self._remembered):
            return
        if idle and self._admission is not None and self._admission.full(self.url, len(self.tasks)):
            self._turn_away()
            return
        # An earlier request of the same packet may have been answered already: the connection is not idle any more.
        self._unset_keepalive_if_required()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """The parser's next piece of a body."""
        if self.cycle is not None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The parser's end of a request."""
        if self.cycle is not None:
            super().on_message_complete()

    def _repeat(self, remembered: Remembered) -> bool:
        """Gives a remembered answer, if there is one."""
        parser = self.parser
        if parser.get_method() != b"GET" or parser.get_http_version() != "1.1":
            return False
        if self.flow.write_paused or not parser.should_keep_alive():
            return False
        answer = remembered.answer(self.url, self.headers, self.client[0] if self.client else "")
        if answer is None:
            return False
        self.cycle = None  # type: ignore[assignment]  # there is no body to come for it
        self.transport.write(answer)
        self.on_response_complete()
        return True

    def _expect_head(self) -> None:
        self._reading_head, self._head_size = True, 0
        if self._late is None:
            self._late = self.loop.call_later(MAX_HEAD_SECONDS, self._give_up)

    def _head_is_whole(self) -> None:
        self._reading_head = False
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()

    def _turn_away(self) -> None:
        self.cycle = None  # type: ignore[assignment]  # whatever is left of the body belongs to nobody
        given, body_size = b"", b"0"
        for name, value in self.headers:
            if name == b"x-request-id":
                given = value
            elif name == b"content-length":
                body_size = value
            elif name == b"transfer-encoding":
                body_size = b"unknown"
        stays = self.parser.should_keep_alive() and body_size.isdigit() and int(body_size) <= MAX_HEAD
        self.transport.write(
            b"%sx-request-id: %s\r\n%s\r\n%s"
            % (
                _FULL_HEAD,
                request_id_of(given.decode("latin-1")).encode(),
                b"" if stays else b"connection: close\r\n",
                b"" if self.parser.get_method() == b"HEAD" else _FULL_BODY,
            )
        )
        if stays:
            self.on_response_complete()
        else:
            self.transport.close()

    def _refuse(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(_REFUSAL)
            self.transport.close()


def options() -> dict[str, Any]:
    """uvicorn's settings for the gateway."""
    return {
        "http": BoundedProtocol,
        "ws": "none",
        "log_config": None,
        "access_log": False,
        "lifespan": "off",
        "server_header": False,
        "date_header": False,
        "proxy_headers": False,
        "limit_concurrency": 4096,
        "timeout_graceful_shutdown": 10,
    }
