"""Sends what is due, notes every attempt, tries again (NOTIFY-5).

A delivery that is taken is due again after the lease: a process that is killed between sending and recording sends it
once more, under the same id. At least once, never lost.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from taskman_sdk.errors import InvalidArgumentError, TaskManError
from taskman_sdk.proto.taskman.notification.v1.notification_pb import DeliveryEvent, WebhookEvent
from taskman_sdk.proto.taskman.user.v1.user_pb import BatchGetUsersRequest, BatchGetUsersResponse
from taskman_server.kit.coalesce import Batches
from taskman_server.kit.db import DatabaseError, Row, Transaction
from taskman_server.kit.ids import is_id
from taskman_server.kit.rpc.call import Context
from taskman_server.kit.rpc.runtime import Runtime
from taskman_server.services.notifications.convert import delivery_message, webhook_message
from taskman_server.services.notifications.mail import MailSender, build_mail
from taskman_server.services.notifications.outcome import Attempt, AttemptRow, Outcome
from taskman_server.services.notifications.rules import due, host_of, next_delay
from taskman_server.services.notifications.slots import WEBHOOKS, Slots
from taskman_server.services.notifications.store import End, NotificationStore
from taskman_server.services.notifications.templating import Templates
from taskman_server.services.notifications.webhooks import WebhookSender

__all__ = ["LEASE", "DeliveryWorker"]

LEASE: Final = timedelta(seconds=120)  # longer than any attempt can take
MAX_REST: Final = timedelta(seconds=30)  # for what another process left behind
SHARED_REST: Final = timedelta(seconds=3)  # the same where several processes are at work
GRACE: Final = 5.0
_RECORDED_TOGETHER: Final = 64


@dataclass(frozen=True, slots=True)
class _Ended:
    row: Row
    claim: datetime
    outcome: Outcome
    attempt: Attempt
    context: Context


class DeliveryWorker:
    """The one that sends."""

    def __init__(
        self,
        runtime: Runtime,
        store: NotificationStore,
        templates: Templates,
        mail: MailSender,
        webhooks: WebhookSender,
        wiped: Callable[[], None],
    ) -> None:
        """`wiped` is called after each commit that wiped a secret."""
        self._runtime = runtime
        self._store = store
        self._templates = templates
        self._mail = mail
        self._webhooks = webhooks
        self._wiped = wiped
        self._wake = asyncio.Event()
        # Apart, so that no receiver of webhooks can hold up a mail.
        self._slots = (Slots(mail.limits), Slots(WEBHOOKS))
        self._all = frozenset(slots.limits.channel for slots in self._slots)
        self._asked = set(self._all)  # channels in which something may be due
        self._left: set[str] = set()  # channels in which something that is due waits for a slot
        self._next_round = self._last_round = datetime.min.replace(tzinfo=UTC)  # looks at all channels
        self._running: dict[str, asyncio.Task[None]] = {}
        self._records: Batches[_Ended] = Batches(self._record_all, _RECORDED_TOGETHER)

    def wake(self, channel: str = "") -> None:
        """Something may be due: a new delivery over a channel, or the clock was moved."""
        self._asked.update((channel,) if channel else self._all)
        self._wake.set()

    async def run(self) -> None:
        """Sends until cancelled; attempts under way get some seconds to end and be recorded."""
        try:
            while True:
                self._wake.clear()
                pause = await self._start_due()
                # Not wait_for: before Python 3.12 it can swallow a cancellation that comes with the wake-up.
                try:
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
                except TimeoutError:
                    self._asked.update(self._all)
        finally:
            await self._finish()

    async def _start_due(self) -> float:
        """Begins what is due; the seconds until there may be more."""
        now = self._runtime.clock.now()
        asked, self._asked = self._asked, set()
        if now >= self._next_round:
            asked.update(self._all)
        try:
            for slots in self._slots:
                if slots.limits.channel in asked:
                    await self._fill(slots, now)
            next_due = await self._store.next_due(now)
        except DatabaseError as error:
            self._asked |= asked
            self._runtime.telemetry.log.warning("deliveries wait for the database", error=str(error))
            return 1.0
        if asked == self._all:
            self._last_round = now
        # What is due and was not begun waits for a slot: each attempt that ends wakes us then.
        rest = SHARED_REST if self._runtime.db.shared else MAX_REST
        self._next_round = self._last_round + rest
        if next_due is not None:
            self._next_round = min(next_due, self._next_round)
        return min(max(self._next_round - now, timedelta(0)), rest).total_seconds()

    async def _fill(self, slots: Slots, now: datetime) -> None:
        """Gives the free slots of a channel to the organizations in turns."""
        channel = slots.limits.channel
        self._left.add(channel)  # until we know better: an attempt may end while we look
        if slots.free <= 0:
            return
        due = await self._store.organizations_due(channel, now)
        if not due:
            self._left.discard(channel)
        if slots.next(due) is None:
            return
        shunned = False
        begun: list[Row] = []
        try:
            async with self._store.claiming() as tx:
                while (organization := slots.next(due)) is not None:
                    busy: list[str] = []
                    if full := slots.full_hosts:
                        urls = await self._store.webhook_urls(tx, organization)
                        busy = [each.id for each in urls if host_of(each.url) in full]
                        shunned = shunned or bool(busy)
                    # Calls one by one, as each may fill a host; mails several at a time.
                    share = 1 if channel == "webhook" else max(1, slots.may_have(organization) // len(due))
                    rows = await self._store.claim(
                        tx, channel, organization, now, LEASE,
                        running=slots.of(organization), busy=busy, limit=share,
                    )  # fmt: skip
                    if len(rows) < share:
                        due.remove(organization)
                    for row in rows:
                        slots.take(row.id, organization, host_of(row.webhook_url) if row.webhook_url else "")
                        begun.append(row)
        except BaseException:
            for row in begun:
                slots.give_back(row.id)
            raise
        if not due and not shunned:
            self._left.discard(channel)
        for row in begun:
            task = asyncio.create_task(self._attempt(row, now + LEASE), name=f"send-{row.id}")
            self._running[row.id] = task
            task.add_done_callback(partial(self._ended, slots, row.id))

    def _ended(self, slots: Slots, identifier: str, _: object) -> None:
        slots.give_back(identifier)
        self._running.pop(identifier, None)
        if slots.limits.channel in self._left:
            self.wake(slots.limits.channel)

    async def _finish(self) -> None:
        tasks = list(self._running.values())
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=GRACE)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _attempt(self, row: Row, claim: datetime) -> None:
        clock = self._runtime.clock
        context = self._runtime.context(row.organization, request_id=row.request_id)
        time, started = clock.now(), clock.monotonic()
        webhook = None
        try:
            if row.channel == "webhook":
                webhook = await self._store.webhook(row.organization, row.webhook)
                outcome = await self._send_webhook(row, webhook)
            else:
                outcome = await self._send_mail(row, context)
        except Exception as error:
            # Its text could quote the content, and with it a secret.
            self._runtime.telemetry.log.error("an attempt failed", delivery=row.id, error=type(error).__name__)
            outcome = Outcome("retry", 0, f"A fault on our side ({type(error).__name__}).")
        attempt = Attempt(time, outcome.status_code, outcome.error, round((clock.monotonic() - started) * 1000))
        try:
            await self._records.do(_Ended(row, claim, outcome, attempt, context))
        except DatabaseError as error:
            self._not_recorded(row, error)

    async def _record_all(self, ended: Sequence[_Ended]) -> None:
        """Attempts that ended at about the same time are one commit.

        Raises:
            DatabaseError: it is one alone, and could not be recorded.
        """
        try:
            async with self._runtime.db.transaction() as tx:
                ends = [_end(each) for each in ended]
                for each, end, found in zip(ended, ends, await self._store.finish(tx, ends), strict=True):
                    await self._tell(tx, each, end.values["state"], found)
        except DatabaseError:
            if len(ended) == 1:
                raise
            # One of them may be at fault, and the others are not to be sent twice for it.
            for each in ended:
                try:
                    await self._record_all([each])
                except DatabaseError as error:
                    self._not_recorded(each.row, error)

    def _not_recorded(self, row: Row, error: DatabaseError) -> None:
        # The lease runs out, and it is sent again.
        self._runtime.telemetry.log.error("an attempt was not recorded", delivery=row.id, error=str(error))
        self.wake()

    async def _send_webhook(self, row: Row, webhook: Row | None) -> Outcome:
        if webhook is None:
            return Outcome("failed", 0, "The webhook was deleted.")
        if webhook.disabled:
            return Outcome("failed", 0, "The webhook is disabled.")
        sent = await self._webhooks.send(webhook.url, webhook.secret, row.id, row.payload)
        if sent.note:
            self._runtime.telemetry.log.warning("a webhook was not called", delivery=row.id, note=sent.note)
        return Outcome(sent.kind, sent.status_code, sent.error, sent.retry_after, webhook.url)

    async def _send_mail(self, row: Row, context: Context) -> Outcome:
        content = json.loads(row.payload)
        variables: dict[str, str] = content["variables"]
        address, name = row.recipient, variables.get("display_name", "")
        if is_id(address, "user"):
            try:
                person = await self._person(row.organization, address, context)
            except TaskManError as error:
                return Outcome("retry", 0, f"The user's address could not be asked for: {error.reason}.")
            if person is None:
                return Outcome("failed", 0, f"There is no user {address}.")
            if not person["active"]:
                return Outcome("failed", 0, f"{address} is deactivated.")
            address, name = person["email"], person["display_name"]
        values = {"email": address, "public_url": self._runtime.settings.public_url, **variables, "display_name": name}
        try:
            rendered = self._templates.render(content["template"], values)
            mail = build_mail(
                rendered,
                sender=self._runtime.settings.mail_from,
                recipient=address,
                name=name,
                delivery=row.id,
                time=row.create_time,
            )
        except (InvalidArgumentError, ValueError) as error:
            return Outcome("failed", 0, f"The mail cannot be made ({type(error).__name__}).")
        sent = await self._mail.send(mail, row.id, row.create_time)
        return Outcome(sent.kind, sent.status_code, sent.error, sent.retry_after, address)

    async def _person(self, organization: str, user: str, context: Context) -> dict[str, Any] | None:
        """What is known of a user, here or at the user service: the event that tells of one may come later."""
        known = await self._store.recipient(organization, user)
        if known is not None:
            return {"email": known.email, "display_name": known.display_name, "active": known.active}
        request = BatchGetUsersRequest(users=[user])
        answer = await context.peer("UserService.BatchGetUsers", request, BatchGetUsersResponse)
        for found in answer.users:
            return {
                "email": found.email,
                "display_name": found.display_name,
                "active": found.state != "deactivated",
            }
        return None

    async def _tell(
        self, tx: Transaction, ended: _Ended, state: str, found: tuple[Row, Sequence[AttemptRow]] | None
    ) -> None:
        """What follows from an attempt, in the transaction that records it."""
        row, context = ended.row, ended.context
        if state == "pending":
            tx.on_commit(self._wake.set)  # it may be the next that is due
        elif row.sensitive:
            tx.on_commit(self._wiped)
        if ended.outcome.kind == "gone":
            await self._disable(tx, row, context)
        if found is None or state == "pending":
            return
        event = DeliveryEvent(delivery=delivery_message(*found))
        name = "notification.delivered" if state == "delivered" else "notification.failed"
        await context.emit(tx, name, event, subject=row.id, result="success" if state == "delivered" else "failure")

    async def _disable(self, tx: Transaction, row: Row, context: Context) -> None:
        webhook = await self._store.webhook_for_update(tx, row.organization, row.webhook)
        if webhook is None or webhook.disabled:
            return
        await self._store.change_webhook(tx, webhook, context.now, disabled=True)
        changed = await self._store.webhook_for_update(tx, row.organization, row.webhook)
        assert changed is not None
        event = WebhookEvent(webhook=webhook_message(changed), before=webhook_message(webhook))
        await context.emit(tx, "notification.webhook.updated", event, subject=row.webhook)


def _end(ended: _Ended) -> End:
    """What becomes of a delivery."""
    row, outcome = ended.row, ended.outcome
    tries = row.tries + 1
    state = "delivered" if outcome.kind == "delivered" else "failed"
    next_time: datetime | None = None
    if outcome.kind == "retry":
        delay = next_delay(tries, row.sensitive, random.random(), outcome.retry_after)
        if delay is not None:
            state, next_time = "pending", due(ended.context.now, delay)
    values = {
        "state": state,
        "tries": tries,
        "next_attempt_time": next_time,
        "recipient": outcome.recipient or row.recipient,
        "payload": None if row.sensitive and state != "pending" else row.payload,
    }
    return End(row, ended.claim, ended.attempt, values)
