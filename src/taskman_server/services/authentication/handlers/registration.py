"""Signing up, and the first administrator."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Final

from taskman_sdk.errors import AlreadyExistsError, PermissionDeniedError
from taskman_sdk.proto.taskman.authentication.v1.authentication_pb import (
    RegisterRequest,
    RegisterResponse,
    SetUpRequest,
    SetUpResponse,
)
from taskman_server.kit.emails import normal_email
from taskman_server.kit.ids import new_id
from taskman_server.kit.rpc import Call
from taskman_server.services.authentication.accounts import create_account, try_grant_role
from taskman_server.services.authentication.first_start import set_up_administrator
from taskman_server.services.authentication.parts import Parts, payload
from taskman_server.services.authentication.passwords import check_password

__all__ = ["RegistrationHandlers"]

# Seconds. Answers leave on the beat, counted from the hash that both have: what comes after it takes some 3 ms for a
# known address and some 12 ms for a new one, and is not to be told apart.
BEAT: Final = 0.1
# The owner of an address is mailed once in so long, however often a stranger signs up with it.
COOL_DOWN: Final = timedelta(minutes=10)
NEXT_STEP: Final = (
    "Sign in with this address and password. If the address had an account before, nothing was changed and its owner "
    "was told by mail."
)


class RegistrationHandlers:
    """Accounts that begin."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def register(self, request: RegisterRequest, call: Call) -> RegisterResponse:
        """Answers alike for a new and for a known address: same body, same status, same beat of time (AUTHN-5)."""
        parts, settings = self._parts, self._parts.runtime.settings
        if settings.signup not in ("open", "organization"):
            raise PermissionDeniedError(
                "Nobody can sign up here. Ask an administrator for an account.", reason="SIGNUP_CLOSED"
            )
        email = normal_email(request.email)
        check_password(request.password, email=email, display_name=request.display_name)
        password_hash = await parts.passwords.hash(request.password)
        hashed = asyncio.get_running_loop().time()
        role = "admin" if settings.signup == "organization" else "member"
        answer = await create_account(
            call,
            parts.store,
            registration=new_id("registration"),
            email=email,
            display_name=request.display_name,
            password_hash=password_hash,
            role=role,
        )
        assert answer.user is not None
        user, organization = answer.user.id, answer.organization
        if answer.created:
            await try_grant_role(call, user, organization, role)
        else:
            await self._report_repeated(call, user, organization)
        if settings.password_hash == "standard":  # what cheap hashing saves in tests would be lost in the beat
            past = (asyncio.get_running_loop().time() - hashed) % BEAT
            await asyncio.sleep(BEAT - past)
        return RegisterResponse(email=email, next_step=NEXT_STEP)

    async def set_up(self, request: SetUpRequest, call: Call) -> SetUpResponse:
        """Makes the first administrator with the token that the first start printed (OPS-1)."""
        email = normal_email(request.email)
        name = request.display_name or email.partition("@")[0]
        check_password(request.password, email=email, display_name=request.display_name)
        user = await set_up_administrator(
            self._parts.runtime,
            self._parts.store,
            self._parts.passwords,
            call,
            token=request.token,
            email=email,
            password=request.password,
            display_name=name,
        )
        if user is None:
            raise AlreadyExistsError(
                f"The address {email} has an account already. Choose another one for the administrator.",
                reason="EMAIL_TAKEN",
                metadata={"email": email},
            )
        return SetUpResponse(user=user)

    async def _report_repeated(self, call: Call, user: str, organization: str) -> None:
        """Puts it on record; the Notification service tells the owner."""
        store, key = self._parts.store, f"repeated:{user}"
        async with self._parts.runtime.db.transaction() as tx:
            if not await store.begin_pause(tx, key, call.now, call.now - COOL_DOWN):
                return
            data = payload(call, user)
            await call.emit(tx, "auth.registration.repeated", data, subject=user, organization=organization)
