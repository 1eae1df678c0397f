"""Mail: the copy of users, what is mailed to whom, SMTP, files (NOTIFY-1, NOTIFY-4, NOTIFY-5)."""

from __future__ import annotations

import asyncio
import email
import email.policy
import mailbox
import stat
from collections.abc import Sequence
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import apsw
import pytest

from taskman_sdk import codec
from taskman_sdk.errors import FailedPreconditionError, InvalidArgumentError, PermissionDeniedError
from taskman_sdk.proto.taskman.authentication.v1.authentication_pb import AuthenticationEvent
from taskman_sdk.proto.taskman.notification.v1.notification_pb import (
    Delivery,
    ListDeliveriesRequest,
    ListDeliveriesResponse,
    ListNotificationsRequest,
    ListNotificationsResponse,
    MailVariable,
    RetryDeliveryRequest,
    SendMailRequest,
    SendMailResponse,
)
from taskman_sdk.proto.taskman.task.v1.task_pb import Task, TaskEvent
from taskman_sdk.proto.taskman.user.v1.user_pb import User, UserEvent
from taskman_server.kit.db import DatabaseError, Transaction
from taskman_server.kit.events import Event
from taskman_server.kit.ids import new_id
from taskman_server.kit.rpc import service_principal
from taskman_server.services.notifications import SERVICE
from taskman_server.services.notifications.store import End, NotificationStore
from taskman_server.services.notifications.worker import LEASE
from tests.store.audit.house import ORGANIZATION, House, Peers, open_house
from tests.store.broker.shapes import said
from tests.store.databases import Databases
from tests.store.notifications.receivers import MailServer, part
from tests.store.support import until

ANN = new_id("user")
BOB = new_id("user")
SECRET_LINK = "https://taskman.example/reset-password?token=tok_secret123"


def created(house: House, user: str, name: str = "Ann", registration: str = "", **values: object) -> Event:
    payload = UserEvent(
        user=User(id=user, email=f"{name.lower()}@example.com", display_name=name, state="active", locale="en"),
        registration=registration,
    )
    return house.event("user.created", payload, **{"subject": user, "source": "/taskman/users"} | values)


def assigned(house: House, *users: str, title: str = "Paint it", actor: str = "user_boss") -> Event:
    task = Task(id=new_id("task"), key="WEB-7", title=title, assignees=list(users))
    event = TaskEvent(task=task, users=list(users))
    return house.event("task.assigned", event, subject=task.id, actor=actor, requestid="req_assign")


async def deliveries(house: House, filter: str = "") -> list[Delivery]:
    answer = await house.call("ListDeliveries", ListDeliveriesRequest(filter=filter), ListDeliveriesResponse)
    return list(answer.deliveries)


async def settled(house: House, count: int, state: str = "delivered") -> list[Delivery]:
    async def done() -> list[Delivery]:
        found = await deliveries(house, f'state == "{state}"')
        return found if len(found) >= count else []

    found: list[Delivery] = await until(done)
    return found


async def test_a_new_user_is_welcomed_and_told_how_to_sign_in(house: House, smtp: MailServer) -> None:
    """NOTIFY-1: with a registration the password is chosen; without, the mail says how to choose one."""
    await house.publish(created(house, ANN, registration="registration_1"), created(house, BOB, "Bob"))
    await smtp.arrived(2)
    mails = dict(smtp.mails)
    ann, bob = mails["ann@example.com"], mails["bob@example.com"]
    assert ann["subject"] == "Welcome to TaskMan"
    assert "Hello Ann" in part(ann, "plain")
    assert "password you chose" in part(ann, "plain")
    assert "https://taskman.example/reset-password" in part(bob, "plain")
    assert 'href="https://taskman.example/reset-password"' in part(bob, "html")
    assert ann["from"] == "TaskMan <taskman@localhost>"
    assert ann["auto-submitted"] == "auto-generated"
    (delivery,) = await deliveries(house, 'recipient == "ann@example.com"')
    assert ann["message-id"] == f"<{delivery.id}@localhost>"


async def test_assignees_are_told_but_not_of_their_own_action(house: House, smtp: MailServer) -> None:
    """OPEN-POINTS 9: an inbox entry and a mail for each new assignee except who did it."""
    await house.publish(created(house, ANN), created(house, BOB, "Bob"))
    await smtp.arrived(2)
    await house.publish(assigned(house, ANN, BOB, actor=BOB))
    await smtp.arrived(3)
    (mail,) = [m for to, m in smtp.mails if m["subject"].startswith("WEB-7")]
    assert mail["to"] == "Ann <ann@example.com>"
    assert mail["subject"] == "WEB-7: Paint it"
    own = await house.call(
        "ListNotifications", ListNotificationsRequest(), ListNotificationsResponse, caller=house.user(ANN)
    )
    assert [n.title for n in own.notifications] == ["WEB-7 was assigned to you: Paint it"]
    none = await house.call(
        "ListNotifications", ListNotificationsRequest(), ListNotificationsResponse, caller=house.user(BOB)
    )
    assert list(none.notifications) == []


async def test_an_assignee_who_is_not_known_yet_is_asked_for(house: House, smtp: MailServer) -> None:
    """NOTIFY-1: the order of events of two services is not promised; while the users service is away, it is tried
    again."""
    house.peers.users[ANN] = User(id=ANN, email="ann@example.com", display_name="Ann", state="active")
    house.peers.down = True
    await house.publish(assigned(house, ANN))

    worker: Any = house.parts.workers[0]

    async def tried() -> bool:
        # The row is there before the attempt has ended, and what is under way is not begun again.
        return not worker._running and bool(
            await house.rows("SELECT 1 FROM attempts WHERE error LIKE '%SERVICE_DOWN%'")
        )

    await until(tried)
    house.peers.down = False
    house.clock.advance(10)
    worker.wake()
    ((to, mail),) = await smtp.arrived(1)
    assert (to, mail["to"]) == ("ann@example.com", "Ann <ann@example.com>")
    (delivery,) = await settled(house, 1)
    assert delivery.recipient == "ann@example.com"
    assert [a.status_code for a in delivery.attempts] == [0, 250]


STATES = ("active", "deactivated")


async def test_nobody_is_mailed_who_is_not_there_or_was_shut_out(house: House, smtp: MailServer) -> None:
    """NOTIFY-1: the copy of users follows their events, and an older one changes nothing."""
    gone = UserEvent(user=User(id=ANN, email="ann@example.com", display_name="Ann", state="deactivated"))
    await house.publish(
        house.event("user.deactivated", gone, subject=ANN),
        created(house, ANN, time=house.clock.now().replace(year=2020)),
    )
    await smtp.arrived(1)
    await house.publish(assigned(house, ANN, BOB))
    failed = await settled(house, 2, "failed")
    assert sorted(d.attempts[0].error for d in failed) == sorted([f"{ANN} is deactivated.", f"There is no user {BOB}."])
    assert len(smtp.mails) == 1


async def test_who_was_let_in_again_is_mailed_again(house: House, smtp: MailServer) -> None:
    """NOTIFY-1, USER-1: shut out and let in again, one is told of one's tasks like before."""
    people = {state: UserEvent(user=User(id=ANN, email="ann@example.com", state=state)) for state in STATES}
    await house.publish(created(house, ANN))
    await smtp.arrived(1)
    house.clock.advance(1)
    await house.publish(house.event("user.deactivated", people["deactivated"], subject=ANN))
    house.clock.advance(1)
    await house.publish(house.event("user.activated", people["active"], subject=ANN))
    await house.publish(assigned(house, ANN))
    assert len(await smtp.arrived(2)) == 2


async def test_the_owner_of_an_address_is_told_that_it_was_signed_up_again(house: House, smtp: MailServer) -> None:
    """AUTHN-5: the answer to a registration does not tell; this mail does."""
    await house.publish(created(house, ANN, registration="r"))
    await smtp.arrived(1)
    event = AuthenticationEvent(user=ANN)
    await house.publish(house.event("auth.registration.repeated", event, subject=ANN, actor=""))
    mails = await smtp.arrived(2)
    assert mails[1][1]["subject"] == "You already have an account"
    assert mails[1][0] == "ann@example.com"


async def test_no_title_or_name_can_begin_a_header_or_a_tag(house: House, smtp: MailServer) -> None:
    """NOTIFY-4: header injection and HTML injection."""
    await house.publish(
        created(house, ANN, "Ann", registration="r"),
        house.event(
            "user.updated",
            UserEvent(user=User(id=ANN, email="ann@example.com", display_name='A\r\nBcc: evil@x\r\n"<b>nn')),
            subject=ANN,
        ),
    )
    await smtp.arrived(1)
    title = "x\r\nBcc: evil@example.com\r\n\r\n<script>alert(1)</script>{{ 7919*7927 }}{% raw %}"
    await house.publish(assigned(house, ANN, title=title))
    mails = await smtp.arrived(2)
    to, mail = mails[1]
    assert to == "ann@example.com"
    assert mail["bcc"] is None
    assert len(mail["to"].addresses) == 1
    assert mail["subject"].strip().startswith("WEB-7: x Bcc: evil@example.com <script>")
    assert "<script>" not in part(mail, "html")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;{{ 7919*7927 }}" in part(mail, "html")
    assert str(7919 * 7927) not in part(mail, "html")
    headers = smtp.raw[1].partition(b"\r\n\r\n")[0].lower()
    assert b"\r\nbcc" not in headers


def reset(link: str = SECRET_LINK) -> SendMailRequest:
    return SendMailRequest(
        user=ANN,
        email="ann@example.com",
        template="password_reset",
        variables=[MailVariable(name="link", substitution=link), MailVariable(name="valid_minutes", substitution="30")],
    )


AUTHENTICATION = service_principal("authentication", ORGANIZATION)


async def everything(house: House) -> str:
    """All that the service keeps and says, beside the mail itself."""
    texts = [
        repr(await house.rows(f"SELECT * FROM {table}")) for table in ("deliveries", "attempts", "outbox", "inbox")
    ]
    texts += [codec.to_json(delivery).decode() for delivery in await deliveries(house)]
    return "\n".join(texts)


async def test_a_secret_link_is_sent_and_then_nowhere_any_more(
    house: House, smtp: MailServer, capfd: pytest.CaptureFixture[str]
) -> None:
    """AUTHN-5, NOTIFY-1: not in rows, attempts, events, lists or logs; and it cannot be sent again."""
    smtp.answers.append(f"451 greylisted {SECRET_LINK}")
    answer = await house.call("SendMail", reset(), SendMailResponse, caller=AUTHENTICATION)

    async def tried() -> bool:
        return bool(await house.rows("SELECT 1 FROM attempts"))

    await until(tried)
    pending = await deliveries(house)
    assert [d.state for d in pending] == ["pending"]
    assert "tok_secret" not in codec.to_json(pending[0]).decode()
    house.clock.advance(10)
    house.parts.workers[0].wake()  # type: ignore[attr-defined]
    ((_, mail),) = await smtp.arrived(1)
    assert SECRET_LINK in part(mail, "plain")
    assert "for 30 minutes" in part(mail, "plain")
    (delivery,) = await settled(house, 1)
    assert (delivery.id, delivery.event_type) == (answer.delivery, "auth.password.reset_requested")
    assert [a.status_code for a in delivery.attempts] == [451, 250]
    assert "tok_secret" not in await everything(house)
    out, err = capfd.readouterr()
    assert "tok_secret" not in out + err
    with pytest.raises(FailedPreconditionError) as wiped:
        await house.call("RetryDelivery", RetryDeliveryRequest(delivery=delivery.id), Delivery)
    assert wiped.value.reason == "DELIVERY_CONTENT_WIPED"


async def test_a_secret_link_that_was_never_taken_is_wiped_too(house: House, smtp: MailServer) -> None:
    """NOTIFY-5: refused for good, or given up after a quarter of an hour."""
    smtp.answers.append(f"554 rejected, contains {SECRET_LINK}")
    await house.call("SendMail", reset(), SendMailResponse, caller=AUTHENTICATION)
    (delivery,) = await settled(house, 1, "failed")
    assert [(a.status_code, a.error) for a in delivery.attempts] == [
        (554, "The mail server refused the message with 554.")
    ]
    assert "tok_secret" not in await everything(house)
    smtp.answers.extend(["451 later"] * 10)
    await house.call("SendMail", reset(), SendMailResponse, caller=AUTHENTICATION)

    async def given_up() -> bool:
        house.clock.advance(700)
        house.parts.workers[0].wake()  # type: ignore[attr-defined]
        return len(await deliveries(house, 'state == "failed"')) == 2

    await until(given_up)
    assert len((await deliveries(house))[0].attempts) == 5
    assert "tok_secret" not in await everything(house)


async def test_mails_with_secrets_are_for_services_alone_and_say_what_they_lack(house: House) -> None:
    """NOTIFY-4: missing variables are named; values are not."""
    with pytest.raises(PermissionDeniedError):
        await house.call("SendMail", reset(), SendMailResponse)
    for request, text in [
        (SendMailRequest(email="a@example.com", template="password_reset"), "needs link"),
        (SendMailRequest(email="a@example.com", template="welcome"), "no template 'welcome'"),
        (reset("javascript:tok_secret123"), "http or https"),
        (
            SendMailRequest(
                email="a@example.com",
                template="registration_repeated",
                variables=[MailVariable(name="oops", substitution="tok_secret")],
            ),
            "has no oops",
        ),
    ]:
        with pytest.raises(InvalidArgumentError, match=text) as caught:
            await house.call("SendMail", request, SendMailResponse, caller=AUTHENTICATION)
        assert "tok_secret" not in str(caught.value)


async def test_a_mailbox_that_is_not_there_fails_for_good_and_a_full_one_is_tried_again(
    house: House, smtp: MailServer
) -> None:
    """NOTIFY-5: 5xx ends it, 4xx does not."""
    await house.publish(created(house, ANN, "Nobody"))
    (delivery,) = await settled(house, 1, "failed")
    assert (delivery.attempts[0].status_code, len(delivery.attempts)) == (550, 1)
    smtp.answers.append("452 full")
    await house.publish(created(house, BOB, "Bob"))

    async def later() -> bool:
        rows = await deliveries(house, 'state == "pending"')
        return bool(rows and rows[0].attempts)

    await until(later)
    (waiting,) = await deliveries(house, 'state == "pending"')
    assert waiting.attempts[0].error == "The mail server refused the message with 452."
    assert waiting.next_attempt_time is not None
    pause = waiting.next_attempt_time.to_datetime() - house.clock.now()
    assert 4 <= pause.total_seconds() <= 6


async def test_without_a_mail_server_mails_are_files_for_the_owner_alone(databases: Databases, tmp_path: Path) -> None:
    """NOTIFY-1, OPS-1: a self-hosted start needs no mail server."""
    async with open_house(SERVICE, databases) as house:
        await house.publish(created(house, ANN))
        (delivery,) = await settled(house, 1)
        (file,) = (tmp_path / "mail").iterdir()
        assert file.name == f"{delivery.create_time.to_datetime():%Y-%m-%d}.mbox"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        (message,) = mailbox.mbox(file)
        assert message["subject"].startswith("Welcome")
        assert delivery.id in message["message-id"]
        await house.call("RetryDelivery", RetryDeliveryRequest(delivery=delivery.id), Delivery)

        async def twice() -> bool:
            (again,) = await deliveries(house)
            return len(again.attempts) == 2

        await until(twice)
        assert list((tmp_path / "mail").iterdir()) == [file]
        assert [each["message-id"] for each in mailbox.mbox(file)] == [message["message-id"]] * 2


@pytest.mark.parametrize("databases", ["sqlite"], indirect=True)
async def test_no_byte_of_a_link_is_left_in_the_database_once_it_was_delivered(tmp_path: Path, house: House) -> None:
    """NOTIFY-1, AUTHN-4: neither in the file nor in its log, though other mails came and went around it."""

    def there(token: str) -> bool:
        return any(token.encode() in file.read_bytes() for file in tmp_path.glob("notifications.db*"))

    tokens = [f"tok_{n:03}_0123456789abcdef" for n in range(48)]

    def mail(token: str) -> SendMailRequest:
        link = f"https://taskman.example/reset-password?token={token}"
        return SendMailRequest(
            template="password_reset",
            email=f"{token[:7]}@example.com",
            variables=[MailVariable(name="link", substitution=link + "&x=" + "y" * (int(token[4:7]) * 20))],
        )

    reading = apsw.Connection(str(tmp_path / "notifications.db"))
    reading.execute("BEGIN")
    reading.execute("SELECT count(*) FROM deliveries").fetchall()
    for token in tokens:
        await house.call("SendMail", mail(token), SendMailResponse, caller=AUTHENTICATION)
    await settled(house, len(tokens))
    assert any(there(token) for token in tokens), "somebody reads, so the log must stay for now"
    reading.close()

    async def gone() -> bool:
        return not any(there(token) for token in tokens)

    await until(gone)


async def test_a_mail_in_a_file_can_be_read_and_its_link_be_copied_with_any_program(
    databases: Databases, tmp_path: Path
) -> None:
    """NOTIFY-1, AUTHN-4: no line is wrapped and nothing is escaped, however long the link and whatever the name."""
    link = SECRET_LINK + "x" * 100
    request = SendMailRequest(
        template="password_reset",
        email="ann@example.com",
        variables=[
            MailVariable(name="link", substitution=link),
            MailVariable(name="display_name", substitution="Jörg Grün"),
        ],
    )
    async with open_house(SERVICE, databases) as house:
        await house.call("SendMail", request, SendMailResponse, caller=AUTHENTICATION)
        await settled(house, 1)
        (file,) = (tmp_path / "mail").iterdir()
    lines = file.read_text(encoding="utf-8").split("\n")
    assert link in lines
    assert "Hello Jörg Grün," in lines
    assert any(f'href="{link}"' in line for line in lines)
    (message,) = mailbox.mbox(file, lambda each: email.message_from_binary_file(each, policy=email.policy.default))
    assert isinstance(message, EmailMessage)
    assert link in part(message, "plain")
    assert link in part(message, "html")


async def test_an_event_that_comes_twice_is_mailed_once(house: House, smtp: MailServer) -> None:
    """EVENT-1."""
    event = created(house, ANN)
    await house.publish(event)
    await house.publish(event)
    await settled(house, 1)
    assert len(smtp.mails) == 1
    assert len(await deliveries(house)) == 1


async def test_events_that_make_no_sense_are_set_aside(house: House) -> None:
    """EVENT-1: they go to the dead-letter queue, and the others go on."""
    await house.publish(house.event("user.created", {}), house.event("task.assigned", {"task": 7}))
    stats = await house.broker.stats()
    assert stats["notifications.users"].dead == 1
    assert stats["notifications.people"].dead == 1


async def test_the_worker_ends_at_once_and_what_was_due_goes_out_at_the_next_start(databases: Databases) -> None:
    """NOTIFY-5: a clean stop loses nothing."""
    peers = Peers()
    async with open_house(SERVICE, databases, peers=peers, run=False) as house:
        worker = asyncio.create_task(house.parts.workers[0].run())
        await asyncio.sleep(0)
        worker.cancel()
        assert await asyncio.gather(worker, return_exceptions=True)
        await house.call("SendMail", reset(), SendMailResponse, caller=AUTHENTICATION)
        clock = house.clock
    async with open_house(SERVICE, databases, peers=peers, clock=clock) as house:
        (delivery,) = await settled(house, 1)
        assert len(delivery.attempts) == 1


async def test_of_attempts_that_end_together_one_that_cannot_be_recorded_leaves_the_others_alone(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NOTIFY-5: one commit for all; where that fails each has its own."""
    finish = NotificationStore.finish
    together: list[int] = []

    async def fails_for_one(self: NotificationStore, tx: Transaction, ends: Sequence[End]) -> Any:
        together.append(len(ends))
        if any("User3" in end.row.payload for end in ends):
            raise DatabaseError("it cannot be recorded")
        return await finish(self, tx, ends)

    users = {f"User{n}": new_id("user") for n in range(8)}
    async with open_house(SERVICE, databases) as house:
        with monkeypatch.context() as patched:
            patched.setattr(NotificationStore, "finish", fails_for_one)
            await house.publish(*(created(house, user, name) for name, user in users.items()))
            ended = await settled(house, 7)
        assert "user3@example.com" not in {each.recipient for each in ended}
        assert all(len(each.attempts) == 1 for each in ended)
        assert max(together) > 1, "some were to be one commit"
        worker = house.parts.workers[0]
        await until(said(lambda: not worker._running))  # type: ignore[attr-defined]
        house.clock.advance(LEASE.total_seconds() + 1)
        worker.wake()  # type: ignore[attr-defined]
        assert len(await settled(house, 8)) == 8, "the lease of the one ran out, and it was sent again"
