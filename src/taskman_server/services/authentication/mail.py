"""Mails with links that sign in (AUTHN-5).

A request for one is a row without any secret, the same for an address with an account and one without: what the
caller sees does not differ, in time either. The worker makes the token, keeps its hash, and hands the link to the
Notification service by a direct call: no secret travels in an event.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta
from typing import Final

from taskman_sdk.errors import TaskManError
from taskman_sdk.proto.taskman.authentication.v1.authentication_pb import AuthenticationEvent
from taskman_sdk.proto.taskman.notification.v1.notification_pb import (
    MailVariable,
    SendMailRequest,
    SendMailResponse,
)
from taskman_server.kit.crypto import digest, new_secret
from taskman_server.kit.db import DatabaseError, Row, Transaction
from taskman_server.kit.ids import new_id
from taskman_server.kit.rpc import Context, Origin, Runtime
from taskman_server.services.authentication.store import AuthenticationStore

__all__ = ["PASSWORD_RESET", "RESET_LIFE", "MailWorker"]

PASSWORD_RESET: Final = "password_reset"
RESET_LIFE: Final = timedelta(hours=1)
# One mail a minute for an account, however often somebody asks for it.
COOL_DOWN: Final = timedelta(seconds=60)
SWEEP: Final = 30.0
SHARED_SWEEP: Final = 5.0  # where other processes write too
# A mail that a process took and did not deal with is another's after so long; handing it over takes seconds.
LEASE: Final = timedelta(seconds=60)
_ATTEMPTS: Final = 10


class MailWorker:
    """Sends what was asked for, oldest first, and tries again where a peer is away."""

    def __init__(self, runtime: Runtime, store: AuthenticationStore) -> None:
        self._runtime = runtime
        self._store = store
        self._wake = asyncio.Event()

    async def request(self, tx: Transaction, context: Context, email: str) -> None:
        """Asks for a link to set a password, in a transaction; nothing where the same wish waits already."""
        await self._store.add_mail(
            tx,
            mail=new_id("mail"),
            template=PASSWORD_RESET,
            email=email,
            request_id=context.request_id,
            traceparent=context.traceparent,
            ip_address=context.origin.ip_address,
            user_agent=context.origin.user_agent[:512],
            now=context.now,
        )
        tx.on_commit(self.wake)

    def wake(self) -> None:
        """There may be a mail to send."""
        self._wake.set()

    async def run(self) -> None:
        """Works until cancelled; what was not sent by then waits in the table."""
        while True:
            self._wake.clear()
            pause = sweep = SHARED_SWEEP if self._runtime.db.shared else SWEEP
            try:
                await self.send_due()
                if (due := await self._store.next_mail_time()) is not None:
                    pause = min(sweep, max(0.1, (due - self._runtime.clock.now()).total_seconds()))
            except DatabaseError as error:
                self._runtime.telemetry.log.warning("mails wait", error=str(error))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause)

    async def send_due(self) -> int:
        """Deals with the mails that are due; how many there were."""
        now, shared = self._runtime.clock.now(), self._runtime.db.shared
        rows = await self._store.due_mails(now)
        for row in rows:
            if not shared or await self._store.claim_mail(row, now + LEASE):
                await self._send(row)
        return len(rows)

    async def _send(self, row: Row) -> None:
        credential = await self._store.credential_of_email(row.email)
        if credential is None or credential.state != "active":
            await self._drop(row)
            return
        context = self._context(row, credential)
        try:
            await self._send_reset(row, credential, context)
        except TaskManError as error:
            await self._delay(row, error)

    async def _send_reset(self, row: Row, credential: Row, context: Context) -> None:
        now = context.now
        sent = f"reset:{credential.user_id}"
        last = (await self._store.throttles([sent])).get(sent)
        if last is not None and now - last.last_time < COOL_DOWN:
            await self._drop(row)
            return
        token = new_secret("tmx")
        async with self._runtime.db.transaction() as tx:
            await self._store.replace_action_token(
                tx,
                token_hash=digest(token),
                purpose=PASSWORD_RESET,
                user=credential.user_id,
                organization=credential.organization,
                now=now,
                expires=now + RESET_LIFE,
            )
        variables = {
            "link": f"{self._runtime.settings.public_url.rstrip('/')}/reset-password?token={token}",
            "valid_minutes": str(RESET_LIFE // timedelta(minutes=1)),
        }
        await context.peer(
            "NotificationService.SendMail",
            SendMailRequest(
                user=credential.user_id,
                email=credential.email,
                template=PASSWORD_RESET,
                variables=[MailVariable(name=name, substitution=text) for name, text in variables.items()],
            ),
            SendMailResponse,
        )
        async with self._runtime.db.transaction() as tx:
            await self._store.delete_mail(tx, row.id)
            await self._store.begin_pause(tx, sent, now, now)
            data = AuthenticationEvent(user=credential.user_id, ip_address=row.ip_address, user_agent=row.user_agent)
            await context.emit(tx, "auth.password.reset_requested", data, subject=credential.user_id)

    def _context(self, row: Row, credential: Row) -> Context:
        context = self._runtime.context(
            credential.organization,
            request_id=row.request_id,
            traceparent=row.traceparent,
        )
        context.origin = Origin(row.ip_address, row.user_agent)
        return context

    async def _drop(self, row: Row) -> None:
        async with self._runtime.db.transaction() as tx:
            await self._store.delete_mail(tx, row.id)

    async def _delay(self, row: Row, error: TaskManError) -> None:
        attempts = row.attempts + 1
        # The reason alone: the text of an error may quote the request, which holds the link.
        self._runtime.telemetry.log.warning(
            "a mail could not be handed over", template=row.template, attempts=attempts, reason=error.reason
        )
        if attempts >= _ATTEMPTS:
            await self._drop(row)
            return
        due = self._runtime.clock.now() + timedelta(seconds=min(2**attempts, 600))
        async with self._runtime.db.transaction() as tx:
            await self._store.delay_mail(tx, row.id, attempts, due)
