"""Mail out: over SMTP, or into files where no server is set (NOTIFY-1)."""

from __future__ import annotations

import asyncio
import contextlib
import email
import errno
import ipaddress
import os
import quopri
import re
import socket
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from email.header import Header
from email.policy import SMTP
from email.utils import format_datetime, formataddr, parseaddr
from functools import lru_cache
from pathlib import Path
from textwrap import TextWrapper
from time import asctime
from typing import Final, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

import aiosmtplib

from taskman_server.services.notifications.outcome import Outcome
from taskman_server.services.notifications.rules import one_line
from taskman_server.services.notifications.slots import MAILS, MAILS_TO_FILES, Limits
from taskman_server.services.notifications.templating import Rendered

__all__ = ["FileSender", "Mail", "MailSender", "SmtpSender", "build_mail", "mail_sender"]

TIMEOUT: Final = 30.0
_MAX_LINE: Final = 998
_FOLD: Final = 76
_LINES: Final = TextWrapper(_FOLD, break_long_words=False, break_on_hyphens=False)
_APPEND: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND
_FROM: Final = re.compile(rb"^(>*From )", re.MULTILINE)


class MailSender(Protocol):
    """A way for mails out; `limits` says how many go at once."""

    limits: Limits

    async def send(self, mail: Mail, delivery: str, time: datetime) -> Outcome:
        """Sends a mail; what came of it, never an exception for what a server or a disk does.

        Args:
            mail: what.
            delivery: its id; a mail that is sent again has the same.
            time: when the delivery was made.
        """
        ...


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail, ready to be sent: who it is from and to (addresses alone), and its bytes."""

    sender: str
    recipient: str
    content: bytes


def build_mail(rendered: Rendered, *, sender: str, recipient: str, name: str, delivery: str, time: datetime) -> Mail:
    """The mail as MIME: text and HTML. Its headers are made of single lines, so that no value can begin another one.

    By hand: `email.message.EmailMessage` reads each header that it is given and writes it anew, for 1 ms a mail, a
    third of what creating a task cost.

    Raises:
        ValueError: an address is none.
    """
    sender_name, sender_address = _parts_of(sender)
    boundary = f"=_{delivery}"
    while boundary in rendered.text or boundary in rendered.html:
        boundary += "_"
    head = (
        _header("From", _mailbox("From", one_line(sender_name), _address(sender_address))),
        _header("To", _mailbox("To", one_line(name), _address(recipient))),
        _header("Subject", _words_of("Subject", one_line(rendered.subject))),
        _header("Date", format_datetime(time.astimezone(UTC))),
        _header("Message-ID", f"<{delivery}@{sender_address.rpartition('@')[2]}>"),
        _header("Auto-Submitted", "auto-generated"),  # RFC 3834: no out-of-office replies, please
        _header("MIME-Version", "1.0"),
        _header("Content-Type", f'multipart/alternative;\r\n boundary="{boundary}"'),
    )
    line = f"--{boundary}"
    parts = (_part("plain", rendered.text), _part("html", rendered.html))
    body = b"".join(f"{line}\r\n".encode() + part for part in parts)
    return Mail(sender_address, recipient, "".join(head).encode() + b"\r\n" + body + f"{line}--\r\n".encode())


_parts_of: Final = lru_cache(16)(parseaddr)  # the same for all mails


def _header(name: str, value: str) -> str:
    return f"{name}: {value}\r\n"


def _mailbox(header: str, name: str, address: str) -> str:
    if not name:
        return address
    if name.isascii() and "=?" not in name:
        return formataddr((name, address))
    return f"{_words_of(header, name)}\r\n <{address}>"


def _words_of(header: str, text: str) -> str:
    """Text as a header has it: RFC 2047 where it is not ASCII, or could be taken for that; folded where it is long."""
    if not text.isascii() or "=?" in text:
        return Header(text, "utf-8", header_name=header, maxlinelen=_FOLD).encode(linesep="\r\n")
    if len(header) + len(text) < _FOLD:
        return text
    return "\r\n ".join(_LINES.wrap(f"{header}: {text}")).removeprefix(f"{header}:").lstrip(" ")


def _part(subtype: str, text: str) -> bytes:
    """A part in the encoding that leaves its text as it is, so that a link can be copied from the bytes; where a line
    is too long for that (RFC 5322 section 2.1.1) quoted-printable."""
    content = "\n".join(text.splitlines()).encode() + b"\n"
    encoding = "7bit" if content.isascii() else "8bit"
    if len(content) > _MAX_LINE and any(len(line) > _MAX_LINE for line in content.split(b"\n")):
        encoding, content = "quoted-printable", quopri.encodestring(content)
    head = f'Content-Type: text/{subtype}; charset="utf-8"\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n'
    return head.encode() + content.replace(b"\n", b"\r\n")


def _in_seven_bits(content: bytes) -> bytes:
    """The mail for a server that takes no other: the parts that need eight are quoted-printable."""
    message = email.message_from_bytes(content, policy=SMTP)
    for part in message.walk():
        if part["Content-Transfer-Encoding"] == "8bit":
            part.set_content(part.get_content(), subtype=part.get_content_subtype(), cte="quoted-printable")
    return message.as_bytes()


def _address(text: str) -> str:
    if not text.isascii() or not text.isprintable() or " " in text or text.count("@") != 1:
        raise ValueError("not an e-mail address")
    return text


def mail_sender(smtp_url: str, folder: Path) -> MailSender:
    """The sender that the settings ask for; `folder` is for the files.

    Raises:
        ValueError: the URL is none of a mail server; the message holds nothing of it.
    """
    return SmtpSender(smtp_url) if smtp_url else FileSender(folder)


class SmtpSender:
    """To a mail server: `smtp://user:password@host:port` or `smtps://…` (TLS from the start).

    With `smtp://`, TLS is used when the server offers it (STARTTLS); `?starttls=require` insists. Where a password is
    sent to another machine it is insisted on anyway: whoever sits between could hide the offer.
    """

    limits = MAILS

    def __init__(self, url: str, *, tls: ssl.SSLContext | None = None) -> None:
        """Args:
            url: where to.
            tls: which certificates are believed; the machine's when None.

        Raises:
            ValueError: the URL is none of a mail server.
        """
        parts, port = urlsplit(url), None
        try:
            port = parts.port
        except ValueError:
            raise ValueError("smtp_url: the port is no number from 1 to 65535") from None
        query = parse_qs(parts.query, keep_blank_values=True)
        starttls = query.pop("starttls", ["auto"])[-1]
        if parts.scheme not in ("smtp", "smtps") or not parts.hostname or parts.path not in ("", "/") or query:
            raise ValueError("smtp_url: expected smtp://user:password@host:port or smtps://…, and at most ?starttls=")
        if starttls not in ("auto", "require"):
            raise ValueError("smtp_url: starttls is `auto` or `require`")
        self._tls = parts.scheme == "smtps"
        self._host = parts.hostname
        self._port = port or (465 if self._tls else 587)
        self._user = unquote(parts.username) if parts.username else None
        self._password = unquote(parts.password) if parts.password else None
        insist = starttls == "require" or (self._user is not None and not _is_loopback(self._host))
        self._starttls = None if not insist else True
        self._context = tls

    async def send(self, mail: Mail, delivery: str, time: datetime) -> Outcome:
        """See `MailSender.send`."""
        content = mail.content
        client = aiosmtplib.SMTP(
            hostname=self._host,
            port=self._port,
            username=self._user,
            password=self._password,
            use_tls=self._tls,
            start_tls=False if self._tls else self._starttls,
            tls_context=self._context,
            timeout=TIMEOUT / 2,
            local_hostname=socket.gethostname(),  # the library would look up the domain, and wait for it
        )
        try:
            async with asyncio.timeout(TIMEOUT):
                async with client:
                    options: list[str] = []
                    if not content.isascii():
                        if client.is_ehlo_or_helo_needed:
                            with contextlib.suppress(aiosmtplib.SMTPHeloError):  # it may know HELO alone
                                await client.ehlo()
                        if client.supports_extension("8bitmime"):
                            options = ["BODY=8BITMIME"]
                        else:
                            content = _in_seven_bits(content)
                    await client.sendmail(mail.sender, [mail.recipient], content, mail_options=options)
        except aiosmtplib.SMTPRecipientsRefused as error:
            code = error.recipients[0].code if error.recipients else 0
            return _refused(code, "the recipient", code >= 500)
        except aiosmtplib.SMTPAuthenticationError as error:
            return _refused(error.code, "our user name and password", False)
        except aiosmtplib.SMTPSenderRefused as error:
            return _refused(error.code, "the sender", error.code >= 500)
        except aiosmtplib.SMTPDataError as error:
            return _refused(error.code, "the message", error.code >= 500)
        except aiosmtplib.SMTPResponseException as error:
            return _refused(error.code, "the session", False)
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            return Outcome("retry", 0, f"The mail server cannot be used: {_words(error)}.")
        return Outcome("delivered", 250)


def _refused(code: int, what: str, final: bool) -> Outcome:
    # The server's own words are left out: some quote the message, and with it a secret link.
    return Outcome("failed" if final else "retry", code, f"The mail server refused {what} with {code}.")


def _words(error: BaseException) -> str:
    if isinstance(error, ssl.SSLError):
        return "its certificate or TLS is not good"
    if isinstance(error, aiosmtplib.SMTPServerDisconnected):
        return "it ended the connection"
    if isinstance(error, (TimeoutError, aiosmtplib.SMTPTimeoutError)):
        return "it does not answer in time"
    if isinstance(error, aiosmtplib.SMTPConnectError):
        return "no connection"
    if isinstance(error, aiosmtplib.SMTPException) and "STARTTLS" in str(error).upper():
        return "it does not offer STARTTLS, which is required"
    return type(error).__name__


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class FileSender:
    """Into a folder, the mails of each day (UTC) as one mbox (RFC 4155, quoted as `mboxrd`), readable by the owner
    alone: a mail may hold a secret link.

    Nobody is sent these mails; they are there to be looked at. So they are not synced to disk one by one: when the
    power fails, the last of them may be missing. What is left is three system calls, made at once as SQLite's commits
    are: in a thread each of them would wait for the interpreter. A file for each mail costs the file system ten times
    as much, and more where many were deleted lately.
    """

    limits = MAILS_TO_FILES

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def send(self, mail: Mail, delivery: str, time: datetime) -> Outcome:
        """See `MailSender.send`. A mail that is sent again stands there again."""
        utc = time.astimezone(UTC)
        begin = f"From {mail.sender} {asctime(utc.timetuple())}\n".encode()
        lines = _FROM.sub(rb">\1", mail.content.replace(b"\r\n", b"\n"))
        try:
            self._append(self._folder / f"{utc:%Y-%m-%d}.mbox", begin + lines + b"\n")
        except OSError as error:
            return Outcome("retry", 0, f"The mail cannot be written to its file: {error.strerror}.")
        return Outcome("delivered")

    def _append(self, path: Path, content: bytes) -> None:
        try:
            descriptor = os.open(path, _APPEND, 0o600)
        except FileNotFoundError:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, _APPEND, 0o600)
        try:
            if (written := os.write(descriptor, content)) < len(content):
                os.ftruncate(descriptor, os.fstat(descriptor).st_size - written)  # no half of a mail
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(descriptor)
