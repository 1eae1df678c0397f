"""Mail out: over SMTP, or into files where no server is set (NOTIFY-1)."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import ipaddress
import os
import socket
import ssl
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, parseaddr
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

import aiosmtplib

from taskman_server.services.notifications.outcome import Outcome
from taskman_server.services.notifications.rules import one_line
from taskman_server.services.notifications.templating import Rendered

__all__ = ["FileSender", "MailSender", "SmtpSender", "build_message", "mail_sender"]

TIMEOUT: Final = 30.0
_MAX_LINE: Final = 998


class MailSender(Protocol):
    """A way for mails out."""

    async def send(self, message: EmailMessage, delivery: str, time: datetime) -> Outcome:
        """Sends a message; what came of it, never an exception for what a server or a disk does.

        Args:
            message: with its `From` and `To`.
            delivery: its id; a message that is sent again has the same.
            time: when the delivery was made.
        """
        ...


def build_message(
    rendered: Rendered, *, sender: str, recipient: str, name: str, delivery: str, time: datetime
) -> EmailMessage:
    """The mail as MIME: text and HTML. Headers are built from parts, so that no value can begin another header.

    Raises:
        ValueError: an address is none.
    """
    sender_name, sender_address = parseaddr(sender)
    message = EmailMessage(policy=SMTP)
    message["From"] = Address(one_line(sender_name), addr_spec=_address(sender_address))
    message["To"] = Address(one_line(name), addr_spec=_address(recipient))
    message["Subject"] = one_line(rendered.subject)
    message["Date"] = format_datetime(time.astimezone(UTC))
    message["Message-ID"] = f"<{delivery}@{sender_address.rpartition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office replies, please
    message.set_content(rendered.text, cte=_plain(rendered.text))
    message.add_alternative(rendered.html, subtype="html", cte=_plain(rendered.html))
    return message


def _plain(text: str) -> str:
    """The encoding that leaves a text as it is, so that a link can be copied from the bytes; RFC 5322 section 2.1.1
    has the limit."""
    if any(len(line.encode()) > _MAX_LINE for line in text.splitlines()):
        return "quoted-printable"
    return "7bit" if text.isascii() else "8bit"


def _in_seven_bits(message: EmailMessage) -> EmailMessage:
    """The mail for a server that takes no other: the parts that need eight are quoted-printable."""
    message = copy.deepcopy(message)
    for part in message.walk():
        if isinstance(part, EmailMessage) and part["Content-Transfer-Encoding"] == "8bit":
            part.set_content(part.get_content(), subtype=part.get_content_subtype(), cte="quoted-printable")
    return message


def _needs_eight_bits(message: EmailMessage) -> bool:
    return any(part["Content-Transfer-Encoding"] == "8bit" for part in message.walk())


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

    async def send(self, message: EmailMessage, delivery: str, time: datetime) -> Outcome:
        """See `MailSender.send`."""
        sender, recipient = _addr_spec(message, "From"), _addr_spec(message, "To")
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
                    if _needs_eight_bits(message):
                        if client.is_ehlo_or_helo_needed:
                            with contextlib.suppress(aiosmtplib.SMTPHeloError):  # it may know HELO alone
                                await client.ehlo()
                        if client.supports_extension("8bitmime"):
                            options = ["BODY=8BITMIME"]
                        else:
                            message = _in_seven_bits(message)
                    await client.sendmail(sender, [recipient], message.as_bytes(policy=SMTP), mail_options=options)
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


def _addr_spec(message: EmailMessage, header: str) -> str:
    (address,) = message[header].addresses
    return str(address.addr_spec)


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
    """Into a folder, one `.eml` a mail, readable by the owner alone: a mail may hold a secret link."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def send(self, message: EmailMessage, delivery: str, time: datetime) -> Outcome:
        """See `MailSender.send`. A mail that is sent again takes the place of its first file."""
        try:
            await asyncio.to_thread(self._write, message.as_bytes(policy=SMTP), delivery, time)
        except OSError as error:
            return Outcome("retry", 0, f"The mail cannot be written to its file: {error.strerror}.")
        return Outcome("delivered")

    def _write(self, content: bytes, delivery: str, time: datetime) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / f"{time.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}-{delivery}.eml"
        temporary = path.with_suffix(".tmp")
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
