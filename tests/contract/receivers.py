"""The other ends: a real SMTP server and a real HTTP server that keep what they are sent."""

from __future__ import annotations

import email
import email.policy
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

from aiosmtpd.controller import Controller

from tests.contract.waiting import eventually

__all__ = ["Hook", "HookServer", "Mail", "MailServer"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail that arrived."""

    to: str
    message: EmailMessage

    @property
    def subject(self) -> str:
        return str(self.message["subject"])

    @property
    def text(self) -> str:
        """The text part."""
        part = self.message.get_body(("plain",))
        assert part is not None, "a mail without a text part"
        return str(part.get_content())

    @property
    def html(self) -> str:
        """The HTML part."""
        part = self.message.get_body(("html",))
        assert part is not None, "a mail without an HTML part"
        return str(part.get_content())

    def link(self, path: str) -> str:
        """The token of the link to `path`."""
        found = re.search(rf"https?://\S+{re.escape(path)}\?token=([\w.~-]+)", self.text)
        assert found, f"no link to {path} in {self.text!r}"
        return found[1]


class _Inbox:
    def __init__(self) -> None:
        self._mails: list[Mail] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        self._mails.extend(Mail(to.lower(), message) for to in envelope.rcpt_tos)
        return "250 taken"


class _Controller(Controller):
    """On a free port, which is known before the server starts."""

    def __init__(self, inbox: _Inbox) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        super().__init__(inbox, hostname="127.0.0.1", port=self._socket.getsockname()[1])

    def _create_server(self) -> Any:
        return self.loop.create_server(self._factory_invoker, sock=self._socket)


class MailServer:
    """An SMTP server in a thread of its own."""

    def __init__(self) -> None:
        self._inbox = _Inbox()
        self._controller = _Controller(self._inbox)
        self._controller.start()
        self.url = f"smtp://127.0.0.1:{self._controller.port}"

    def close(self) -> None:
        self._controller.stop()

    def to(self, address: str) -> list[Mail]:
        """The mails to an address, oldest first."""
        return [mail for mail in list(self._inbox._mails) if mail.to == address.lower()]

    async def wait(self, address: str, fits: Callable[[Mail], bool] = lambda _: True, *, seconds: float = 15) -> Mail:
        """The first mail to an address that fits, as soon as it is there."""

        async def look() -> Mail | None:
            return next((mail for mail in self.to(address) if fits(mail)), None)

        return await eventually(look, f"a mail to {address}", seconds=seconds)


@dataclass(frozen=True, slots=True)
class Hook:
    """A webhook request that arrived; header names in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes


class HookServer:
    """An HTTP server in threads; answers 204, or for a path what `answers` says."""

    def __init__(self) -> None:
        self._hooks: list[Hook] = []
        self.answers: dict[str, int] = {}
        hooks, answers = self._hooks, self.answers

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", "0")))
                headers = {name.lower(): value for name, value in self.headers.items()}
                hooks.append(Hook(self.path, headers, body))
                self.send_response(answers.get(self.path, 204))
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                return None

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="hooks", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def at(self, path: str) -> list[Hook]:
        """The requests to a path, oldest first."""
        return [hook for hook in list(self._hooks) if hook.path == path]

    async def wait(self, path: str, fits: Callable[[Hook], bool] = lambda _: True, *, seconds: float = 15) -> Hook:
        """The first request to a path that fits, as soon as it is there."""

        async def look() -> Hook | None:
            return next((hook for hook in self.at(path) if fits(hook)), None)

        return await eventually(look, f"a webhook request to {path}", seconds=seconds)
