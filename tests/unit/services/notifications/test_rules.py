"""What notifications decide, without network or database (NOTIFY-2, NOTIFY-4, NOTIFY-7)."""

from __future__ import annotations

import email
import email.policy
import mailbox
import os
import re
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook as Verifier

from taskman_sdk.errors import InvalidArgumentError
from taskman_server.kit.events import Event
from taskman_server.kit.ids import new_id
from taskman_server.services.notifications.mail import FileSender, SmtpSender, build_mail, mail_sender
from taskman_server.services.notifications.rules import (
    DELAYS,
    check_url,
    is_private,
    is_reachable,
    next_delay,
    one_line,
    retry_after,
    signature,
    webhook_secret,
    webhook_wants,
)
from taskman_server.services.notifications.templating import _NEEDED, Rendered, Templates

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)


def event(name: str, **data: object) -> Event:
    return Event(id=new_id("event"), source="/taskman/tasks", type=f"taskman.{name}.v1", time=NOW, data=data)


@pytest.mark.parametrize(
    ("types", "name", "wanted"),
    [
        ([], "task.created", True),
        (["*"], "iam.role.created", True),
        (["task.created"], "task.created", True),
        (["task.created"], "task.updated", False),
        (["task.*"], "task.deleted", True),
        (["task.*"], "tasks.deleted", False),
        (["iam.role.*"], "iam.role.created", True),
        (["iam.role.*"], "iam.policy.created", False),
        (["user.*", "task.created"], "task.created", True),
        ([], "notification.webhook.created", False),
        (["*"], "notification.delivered", False),
        (["*", "notification.failed"], "notification.delivered", False),
        (["notification.*"], "notification.delivered", True),
        (["notification.webhook.*"], "notification.webhook.deleted", True),
    ],
)
def test_who_is_told_of_what(types: list[str], name: str, wanted: bool) -> None:
    """NOTIFY-2: exact, `task.*`, `*`, nothing for all; deliveries by name alone."""
    assert webhook_wants(types, event(name, delivery={"event_type": "task.created"})) is wanted


def test_a_delivery_about_a_notification_makes_no_further_one() -> None:
    """NOTIFY-2: else each would make the next, for ever."""
    told = event("notification.delivered", delivery={"event_type": "notification.webhook.created"})
    assert not webhook_wants(["notification.*", "notification.delivered"], told)


@given(st.integers(1, 20), st.booleans(), st.floats(0, 1), st.none() | st.floats(0, 1e9))
def test_pauses_grow_have_an_end_and_respect_what_was_asked(
    tries: int, sensitive: bool, jitter: float, asked: float | None
) -> None:
    """NOTIFY-2."""
    delay = next_delay(tries, sensitive, jitter, asked)
    if tries > len(DELAYS) or (sensitive and tries >= 5):
        assert delay is None
        return
    assert delay is not None
    assert delay >= 0.8 * DELAYS[tries - 1]
    assert delay <= 86_400
    if asked is not None:
        assert delay >= min(asked, 86_400)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("120", 120),
        (" 5 ", 5),
        ("-5", None),
        ("5.5", None),
        ("soon", None),
        ("Tue, 01 Jan 2030 12:01:00 GMT", 60),
        ("Tue, 01 Jan 2030 11:00:00 GMT", 0),
        ("Tue, 01 Jan 99999999 11:00:00 GMT", None),
        ("\u0663", None),
    ],
)
def test_retry_after_is_read_as_http_says(header: str | None, seconds: float | None) -> None:
    """NOTIFY-2: RFC 9110 section 10.2.3; nonsense is as if nothing was said."""
    assert retry_after(header, NOW) == seconds


@given(st.text(), st.integers(1, 50))
def test_one_line_is_one_line(text: str, limit: int) -> None:
    """NOTIFY-4: nothing that a header could be ended with."""
    line = one_line(text, limit)
    assert len(line) <= limit
    assert line.splitlines() in ([line], [])
    assert all(c.isprintable() for c in line)


@given(st.binary(min_size=24, max_size=64), st.text(st.characters(exclude_categories=["Cs"])))
def test_signatures_are_those_of_the_standards_library(random: bytes, body: str) -> None:
    """NOTIFY-2."""
    secret = webhook_secret(random)
    assert signature(secret, "msg_1", 1_893_456_000, body) == Verifier(secret).sign(
        "msg_1", datetime.fromtimestamp(1_893_456_000, UTC), body
    )


def test_a_secret_that_is_none_is_refused() -> None:
    """NOTIFY-2."""
    with pytest.raises(ValueError):
        signature("whsec_???", "id", 1, "{}")


PRIVATE = [
    "127.0.0.1", "127.255.255.255", "10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1", "169.254.169.254",
    "0.0.0.0", "255.255.255.255", "224.0.0.1", "240.0.0.1", "192.0.2.1", "198.18.0.1", "::", "::1", "fe80::1",
    "fc00::1", "ff02::1", "2001:db8::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::", "64:ff9b::a9fe:a9fe",
]  # fmt: skip


@pytest.mark.parametrize("text", PRIVATE)
def test_private_addresses_are_known_in_every_disguise(text: str) -> None:
    """NOTIFY-7."""
    assert is_private(ip_address(text))
    assert not is_reachable(ip_address(text), "https", allow_private=False)


@pytest.mark.parametrize(
    "text", ["93.184.216.34", "1.1.1.1", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_public_addresses_are_called_over_https(text: str) -> None:
    """NOTIFY-7."""
    assert is_reachable(ip_address(text), "https", allow_private=False)
    assert not is_reachable(ip_address(text), "http", allow_private=True)


@pytest.mark.parametrize(
    ("url", "fits"),
    [
        ("http://localhost:8080/x", True),
        ("http://127.0.0.1/x", True),
        ("http://receiver:8080/x", True),
        ("http://8.8.8.8/x", False),
        ("https://10.0.0.1/x", True),
        ("https://169.254.169.254/x", False),
        ("https://0.0.0.0/x", False),
        ("https://[fe80::1]/", False),
        ("https://exa mple.com/", False),
        ("https://[/", False),
        ("https://h:99999/", False),
        ("https://münchen.example/", False),
    ],
)
def test_where_private_networks_are_allowed(url: str, fits: bool) -> None:
    """NOTIFY-7: for development; link-local stays shut."""
    if fits:
        check_url(url, allow_private=True)
        return
    with pytest.raises(InvalidArgumentError):
        check_url(url, allow_private=True)


@pytest.mark.parametrize("name", sorted(_NEEDED))
def test_every_text_can_be_rendered_and_says_what_it_lacks(name: str) -> None:
    """NOTIFY-4: missing variables are named."""
    templates = Templates()
    needed = {each: "https://x.example/?a=1&b=2" if each == "link" else f"<{each}>" for each in _NEEDED[name]}
    rendered = templates.render(name, needed | {"email": "a@b.example", "public_url": "https://t.example"})
    assert rendered.subject
    assert rendered.text.strip()
    assert "</html>" in rendered.html
    assert "None" not in rendered.text + rendered.html
    if "link" in needed:
        assert needed["link"] in rendered.text
        assert "https://x.example/?a=1&amp;b=2" in rendered.html
    for each in needed:
        with pytest.raises(InvalidArgumentError, match=each):
            templates.render(name, {k: v for k, v in needed.items() if k != each})


@pytest.mark.parametrize("name", ["Buy at evil.example", "http://evil", "see www.evil", "a@b", "x/y"])
def test_a_name_that_looks_like_a_link_is_not_mailed_to_strangers(name: str) -> None:
    """AUTHN-5, NOTIFY-1: a sign-up with somebody else's address carries no advertisement."""
    rendered = Templates().render("registration_repeated", {"display_name": name, "email": "x", "public_url": "y"})
    assert name not in rendered.text + rendered.html + rendered.subject
    assert "Hello," in rendered.text


def test_templates_cannot_reach_out_of_the_sandbox() -> None:
    """NOTIFY-4: what people typed is data, never a template."""
    text = "{{ ''.__class__ }}{% include 'base.html' %}"
    rendered = Templates().render("task_assigned", {"task": "t", "key": "K", "title": text})
    assert text in rendered.subject
    assert text in rendered.text


@pytest.mark.parametrize("recipient", ["a@b\r\nBcc: c@d", "a b@c", "a@b@c", "", "ä@b.example", "a@b\0"])
def test_what_is_no_address_makes_no_mail(recipient: str) -> None:
    """NOTIFY-1."""
    rendered = Templates().render("welcome", {"email": "a", "public_url": "b"})
    with pytest.raises(ValueError):
        build_mail(rendered, sender="x@y.example", recipient=recipient, name="", delivery="d", time=NOW)


_TITLES = st.text(max_size=200) | st.text(st.characters(max_codepoint=126), max_size=200) | st.just("x" * 200)


@given(st.text(max_size=100), _TITLES)
def test_no_name_or_subject_adds_a_header_or_a_receiver(name: str, title: str) -> None:
    """NOTIFY-1, NOTIFY-4."""
    rendered = TEMPLATES.render("task_assigned", {"task": "t", "key": "K", "title": title or "x"})
    mail = build_mail(rendered, sender="T <x@y.example>", recipient="a@b.example", name=name, delivery="d", time=NOW)
    message = email.message_from_bytes(mail.content, policy=email.policy.default)
    head = mail.content.partition(b"\r\n\r\n")[0]
    names = [line.partition(b":")[0].lower() for line in head.split(b"\r\n") if line[:1] not in (b" ", b"\t")]
    assert sorted(names) == sorted(
        [b"from", b"to", b"subject", b"date", b"message-id", b"auto-submitted", b"mime-version", b"content-type"]
    )
    (to,) = message["to"].addresses
    assert to.addr_spec == "a@b.example"
    # Python's reader puts blanks between the encoded words of a long name.
    assert to.display_name.replace(" ", "") == one_line(name).replace(" ", "")
    assert message["subject"] == rendered.subject


@given(st.text(max_size=2000), st.sampled_from(["", "=?utf-8?q?Ada?=", 'Ada "The Countess", Lovelace', "Ünï" * 50]))
def test_a_mail_says_what_was_rendered(title: str, name: str) -> None:
    """NOTIFY-1: as every reader takes it apart, in lines that every server takes."""
    text = f"Hello {title}\nhttps://taskman.example/{'x' * 300}\n"
    mail = build_mail(
        Rendered("Hello", text, f"<p>{title}</p>"),
        sender="T <x@y.example>", recipient="a@b.example", name=name, delivery="d", time=NOW,
    )  # fmt: skip
    assert (mail.sender, mail.recipient) == ("x@y.example", "a@b.example")
    assert all(len(line) <= 998 for line in mail.content.split(b"\r\n"))
    assert b"\n" not in mail.content.replace(b"\r\n", b"")
    message = email.message_from_bytes(mail.content, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    assert not message.defects
    assert message["to"].addresses[0].display_name.replace(" ", "") == one_line(name).replace(" ", "")
    for kind, expected in (("plain", text), ("html", f"<p>{title}</p>")):
        part = message.get_body((kind,))
        assert part is not None
        assert part.get_content().splitlines() == expected.splitlines()


TEMPLATES = Templates()


@pytest.mark.parametrize(
    "url",
    [
        "http://h",
        "smtp://",
        "smtp://h:0x",
        "smtp://h:99999",
        "smtp://h/path",
        "smtp://h?what=1",
        "smtp://u:topsecret@h?starttls=no",
    ],
)
def test_a_mail_server_that_is_none_is_refused_at_start(url: str) -> None:
    """OPS-1: without its password in the message."""
    with pytest.raises(ValueError, match="smtp_url") as refused:
        SmtpSender(url)
    assert "topsecret" not in str(refused.value)


def test_a_password_is_sent_to_another_machine_over_tls_alone(tmp_path: Path) -> None:
    """NOTIFY-1: whoever sits between could hide the server's offer of STARTTLS."""
    assert SmtpSender("smtp://u:p@mail.example")._starttls is True
    assert SmtpSender("smtp://mail.example")._starttls is None
    assert SmtpSender("smtp://u:p@127.0.0.1")._starttls is None
    assert SmtpSender("smtp://u:p@localhost?starttls=require")._starttls is True
    assert (SmtpSender("smtps://h")._port, SmtpSender("smtp://h")._port) == (465, 587)
    assert isinstance(mail_sender("", tmp_path), FileSender)
    assert isinstance(mail_sender("smtp://h", tmp_path), SmtpSender)


async def test_a_folder_that_cannot_be_written_is_tried_again(tmp_path: Path) -> None:
    """NOTIFY-5."""
    (tmp_path / "file").write_text("")
    rendered = TEMPLATES.render("welcome", {"email": "a", "public_url": "b"})
    mail = build_mail(rendered, sender="x@y.example", recipient="a@b.c", name="", delivery="d", time=NOW)
    outcome = await FileSender(tmp_path / "file").send(mail, "d", NOW + timedelta(1))
    assert outcome.kind == "retry"
    assert "written" in outcome.error


async def test_the_mails_of_a_day_are_one_mbox_whatever_they_say(tmp_path: Path) -> None:
    """NOTIFY-1: RFC 4155, quoted as mboxrd, so that no line of a mail begins another one."""
    texts = ["From me to you", ">From you", "Hello\nFrom a@b.c Tue Nov 24 02:08:00 2026\nSubject: x\n\nGrüße"]
    sender = FileSender(tmp_path / "mail")
    for number, text in enumerate(texts):
        mail = build_mail(
            Rendered("Hi", text, "<p>"), sender="x@y.example", recipient="a@b.example", name="", delivery=f"d{number}",
            time=NOW,
        )  # fmt: skip
        assert (await sender.send(mail, f"d{number}", NOW)).kind == "delivered"
        assert (await sender.send(mail, f"d{number}", NOW + timedelta(1))).kind == "delivered"
    first, second = sorted((tmp_path / "mail").iterdir())
    assert [file.stem for file in (first, second)] == [f"{NOW:%Y-%m-%d}", f"{NOW + timedelta(1):%Y-%m-%d}"]
    found = []
    for message in mailbox.mbox(first):
        (plain, _) = message.get_payload()
        found.append(plain.get_payload(decode=True).decode())
    assert [re.sub("^>(>*From )", r"\1", text, flags=re.MULTILINE).strip() for text in found] == texts


async def test_of_a_mail_that_does_not_fit_on_the_disk_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NOTIFY-5: it is tried again, and stands behind the others as if nothing had been."""
    sender = FileSender(tmp_path)
    mail = build_mail(
        Rendered("Hi", "Hello", "<p>"), sender="x@y.example", recipient="a@b.example", name="", delivery="d", time=NOW
    )
    write = os.write
    for cut in (False, True, False):
        monkeypatch.setattr(os, "write", lambda file, data, cut=cut: write(file, data[:100] if cut else data))
        outcome = await sender.send(mail, "d", NOW)
        assert outcome.kind == ("retry" if cut else "delivered")
    file = tmp_path / f"{NOW:%Y-%m-%d}.mbox"
    assert [message["subject"] for message in mailbox.mbox(file)] == ["Hi", "Hi"]
    assert file.read_bytes().count(b"Hello") == 2
