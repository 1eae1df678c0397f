"""Mail over SMTP: TLS, passwords, servers that are away (NOTIFY-1, NOTIFY-5)."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from taskman_server.services.notifications.mail import Mail, SmtpSender, build_mail
from taskman_server.services.notifications.templating import Templates
from tests.store.notifications.conftest import Certificates
from tests.store.notifications.receivers import MailServer, part

LINK = "https://taskman.example/reset-password?token=" + "x" * 100


def a_message(name: str = "Ann") -> Mail:
    rendered = Templates().render("password_reset", {"email": "a@example.com", "link": LINK, "display_name": name})
    return build_mail(
        rendered,
        sender="TaskMan <taskman@example.com>",
        recipient="ann@example.com",
        name="Ünï",
        delivery="delivery_1",
        time=datetime.now(UTC),
    )


@pytest.mark.parametrize("smtps", [False, True])
async def test_mail_goes_over_tls_with_a_password(certificates: Certificates, smtps: bool) -> None:
    """NOTIFY-1: STARTTLS and TLS from the start; the certificate is checked."""
    server = MailServer(tls=certificates.server, password="s3cret/word", smtps=smtps)
    try:
        scheme = "smtps" if smtps else "smtp"
        url = f"{scheme}://taskman:s3cret%2Fword@127.0.0.1:{server.port}" + ("" if smtps else "?starttls=require")
        sender = SmtpSender(url, tls=certificates.client)
        outcome = await sender.send(a_message(), "delivery_1", datetime.now(UTC))
        assert outcome.kind == "delivered", outcome.error
        assert server.logins == [("taskman", "s3cret/word")]
        assert server.mails[0][1]["to"].addresses[0].display_name == "Ünï"
        distrusting = SmtpSender(url)
        refused = await distrusting.send(a_message(), "delivery_1", datetime.now(UTC))
        assert (refused.kind, refused.status_code) == ("retry", 0)
        assert len(server.logins) == 1
        wrong = SmtpSender(url.replace("s3cret", "wrong"), tls=certificates.client)
        outcome = await wrong.send(a_message(), "delivery_1", datetime.now(UTC))
        assert (outcome.kind, outcome.status_code) == ("retry", 535)
        assert "wrong" not in outcome.error
    finally:
        server.close()


async def test_a_server_without_starttls_gets_nothing_where_it_is_required(smtp: MailServer) -> None:
    """NOTIFY-1: nobody between can talk us out of TLS."""
    sender = SmtpSender(smtp.url + "?starttls=require")
    outcome = await sender.send(a_message(), "delivery_1", datetime.now(UTC))
    assert outcome.kind == "retry"
    assert "STARTTLS" in outcome.error
    assert smtp.mails == []


async def test_a_mail_server_that_is_away_is_tried_again() -> None:
    """NOTIFY-5."""
    server = MailServer()
    server.close()
    outcome = await SmtpSender(server.url).send(a_message(), "d", datetime.now(UTC))
    assert (outcome.kind, outcome.error) == ("retry", "The mail server cannot be used: no connection.")


@pytest.mark.parametrize(
    ("seven_bits", "name", "encoding", "option"),
    [
        (False, "Ann", "7bit", False),
        (True, "Ann", "7bit", False),
        (False, "Jörg", "8bit", True),
        (True, "Jörg", "quoted-printable", False),
    ],
)
async def test_a_text_is_sent_as_plainly_as_the_server_can_take_it(
    seven_bits: bool, name: str, encoding: str, option: bool
) -> None:
    """NOTIFY-1, RFC 6152: 8 bits only where they are offered and announced; a link is whole wherever that can be."""
    server = MailServer(seven_bits=seven_bits)
    try:
        message = a_message(name)
        outcome = await SmtpSender(server.url).send(message, "delivery_1", datetime.now(UTC))
        assert outcome.kind == "delivered", outcome.error
        (raw,), ((_, received),), (options,) = server.raw, server.mails, server.options
    finally:
        server.close()
    assert any("8BITMIME" in each.upper() for each in options) == option
    text = received.get_body(("plain",))
    assert text is not None
    assert text["content-transfer-encoding"] == encoding
    assert (LINK.encode() in raw.split(b"\r\n")) == (encoding != "quoted-printable")
    assert raw.isascii() == (encoding != "8bit")
    for kind in ("plain", "html"):
        assert LINK in part(received, kind)
        assert f"Hello {name}," in part(received, kind)
