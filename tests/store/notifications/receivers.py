"""The other ends: an HTTP server that keeps what it is sent and answers as told, and a real SMTP server."""

from __future__ import annotations

import asyncio
import email
import email.policy
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from tests.store.support import until

__all__ = ["Answer", "Hook", "HookServer", "MailServer", "hook_server"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What an HTTP server says: a status, headers, a body."""

    status: int = 204
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Hook:
    """A request that arrived; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class HookServer:
    """Requests by arrival; `answers` are given one after the other, then 204s. `hold` makes it wait with answering."""

    url: str = ""
    hooks: list[Hook] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    hold: asyncio.Event | None = None

    async def arrived(self, count: int) -> list[Hook]:
        """The requests, once there are so many."""

        async def there() -> bool:
            return len(self.hooks) >= count

        await until(there)
        return self.hooks

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            method, path, _ = head[0].split(" ")
            headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in head[1:] if line)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            self.hooks.append(Hook(method, path, headers, body))
            if self.hold is not None:
                await self.hold.wait()
            answer = self.answers.pop(0) if self.answers else Answer()
            lines = [f"HTTP/1.1 {answer.status} X", *(f"{k}: {v}" for k, v in answer.headers)]
            lines += [f"content-length: {len(answer.body)}", "connection: close", "", ""]
            writer.write("\r\n".join(lines).encode() + answer.body)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def hook_server(tls: ssl.SSLContext | None = None) -> AsyncIterator[HookServer]:
    """An HTTP server on a free port of loopback."""
    receiver = HookServer()
    server = await asyncio.start_server(receiver._serve, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    receiver.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}/hook"
    try:
        yield receiver
    finally:
        server.close()


@dataclass
class _Inbox:
    mails: list[tuple[str, EmailMessage]] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    options: list[list[str]] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        answer = self.answers.pop(0) if self.answers else "250 taken"
        if answer.startswith("2"):
            content = envelope.content
            content = content.encode() if isinstance(content, str) else content
            message = email.message_from_bytes(content, policy=email.policy.default)
            assert isinstance(message, EmailMessage)
            self.raw.append(content)
            self.options.append(list(envelope.mail_options))
            self.mails.extend((to, message) for to in envelope.rcpt_tos)
        return answer

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if address.startswith("nobody@"):
            return "550 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"


class _Controller(Controller):
    def __init__(self, inbox: _Inbox, **options: Any) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        super().__init__(inbox, hostname="127.0.0.1", port=self._socket.getsockname()[1], **options)

    def _create_server(self) -> Any:
        return self.loop.create_server(self._factory_invoker, sock=self._socket, ssl=self.ssl_context)


class MailServer:
    """An SMTP server in a thread of its own; `answers` to DATA are given one after the other, then 250s."""

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        password: str = "",
        smtps: bool = False,
        seven_bits: bool = False,
    ) -> None:
        self._inbox = _Inbox()
        self.logins: list[tuple[str, str]] = []
        options: dict[str, Any] = {"decode_data": True} if seven_bits else {}  # then it offers no 8BITMIME
        if password:
            options |= {
                "authenticator": self._login,
                "auth_required": True,
                "auth_require_tls": tls is not None and not smtps,
            }
        if tls is not None:
            options |= {"ssl_context": tls} if smtps else {"tls_context": tls}
        self._password = password
        self._controller = _Controller(self._inbox, **options)
        self._controller.start()
        self.port = self._controller.port

    def _login(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        user, password = data.login.decode(), data.password.decode()
        self.logins.append((user, password))
        return AuthResult(success=password == self._password, handled=False)

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self.port}"

    @property
    def answers(self) -> list[str]:
        return self._inbox.answers

    @property
    def raw(self) -> list[bytes]:
        return self._inbox.raw

    @property
    def options(self) -> list[list[str]]:
        """The options of each MAIL command."""
        return self._inbox.options

    @property
    def mails(self) -> list[tuple[str, EmailMessage]]:
        return self._inbox.mails

    async def arrived(self, count: int) -> list[tuple[str, EmailMessage]]:
        """The mails with their receivers, once there are so many."""

        async def there() -> bool:
            return len(self.mails) >= count

        await until(there)
        return list(self.mails)

    def close(self) -> None:
        self._controller.stop()


def part(message: EmailMessage, kind: str) -> str:
    """The text (`plain`) or HTML (`html`) of a mail."""
    found = message.get_body((kind,))
    assert found is not None, f"a mail without a {kind} part"
    return str(found.get_content())
