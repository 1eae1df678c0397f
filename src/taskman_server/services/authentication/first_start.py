"""The first administrator of a deployment: by settings, or by a one-time token that the first start prints (OPS-1).

Every later start looks whether there still is one who can sign in; if not, the same two ways lead back in.
"""

from __future__ import annotations

import contextlib
from datetime import timedelta
from typing import Final

from taskman_sdk.errors import AlreadyExistsError, FieldViolation, InvalidArgumentError
from taskman_sdk.proto.taskman.authentication.v1.authentication_pb import AuthenticationEvent
from taskman_sdk.proto.taskman.iam.v1.iam_pb import (
    Assignment,
    CreateAssignmentRequest,
    ListAssignmentsRequest,
    ListAssignmentsResponse,
)
from taskman_sdk.proto.taskman.user.v1.user_pb import (
    ActivateUserRequest,
    BatchGetUsersRequest,
    BatchGetUsersResponse,
    User,
)
from taskman_server.kit.crypto import PasswordHasher, digest, new_secret
from taskman_server.kit.db import UniqueViolation
from taskman_server.kit.emails import normal_email
from taskman_server.kit.ids import new_id
from taskman_server.kit.organizations import DEFAULT_ORGANIZATION
from taskman_server.kit.rpc import Context, Runtime
from taskman_server.services.authentication.accounts import create_account, grant_role
from taskman_server.services.authentication.passwords import check_password
from taskman_server.services.authentication.store import AuthenticationStore

__all__ = ["ensure_administrator", "issue_setup_token", "set_up_administrator"]

ADMINISTRATOR: Final = "administrator"
ROLE: Final = "admin"
SET_UP: Final = "set_up"
SHUT_OUT: Final = "deactivated"
BATCH: Final = 1000
_LIFE: Final = timedelta(days=7)


async def issue_setup_token(runtime: Runtime) -> str | None:
    """A token for `SetUp`, good once and for a week; the one before it is void.

    None when there is an administrator who can sign in; then no token is good any more.

    Raises:
        TaskManError: a peer does not answer.
    """
    store = AuthenticationStore(runtime.db)
    if await store.milestone(ADMINISTRATOR) is not None:
        admins = await _administrators(runtime.context(DEFAULT_ORGANIZATION, request_id=new_id("req")))
        if any(user.state != SHUT_OUT for user in admins):
            async with runtime.db.transaction() as tx:
                await store.delete_action_tokens(tx, "", SET_UP)
            return None
    now = runtime.clock.now()
    token = new_secret("tms")
    async with runtime.db.transaction() as tx:
        await store.replace_action_token(
            tx,
            token_hash=digest(token),
            purpose=SET_UP,
            user="",
            organization=DEFAULT_ORGANIZATION,
            now=now,
            expires=now + _LIFE,
        )
    return token


async def ensure_administrator(runtime: Runtime, email: str, password: str, display_name: str = "") -> str:
    """Makes the administrator that the settings name, unless there is one; answers the administrator's user id.

    May be called at every start: the settings' password is the first password, and is not put back later. When nobody
    is left who administers and can sign in, the one whom the settings name is let in again, or made anew.

    Raises:
        InvalidArgumentError: the address or the password cannot be used.
        AlreadyExistsError: the address belongs to somebody who signed up: rights are not given to whoever was first.
        TaskManError: a peer does not answer.
    """
    store = AuthenticationStore(runtime.db)
    done = await store.milestone(ADMINISTRATOR)
    context = runtime.context(DEFAULT_ORGANIZATION, request_id=new_id("req"))
    admins: set[str] = set()
    if done is not None:
        users = await _administrators(context)
        if any(user.state != SHUT_OUT for user in users):
            return str(done.user_id)
        admins = {user.id for user in users}
    address = normal_email(email, "TASKMAN_ADMIN_EMAIL")
    if done is not None and (known := await _known(context, address, {*admins, done.user_id})) is not None:
        await _restore(context, known, is_admin=known.id in admins)
        return known.id
    check_password(password, email=address, display_name=display_name, field="TASKMAN_ADMIN_PASSWORD")
    hasher = PasswordHasher(runtime.settings.password_hash, at_once=1)
    name = display_name or address.partition("@")[0]
    # The same registration at each try: a start that was cut off is gone on with.
    registration = f"registration_{digest(address)[:32]}"
    user = await _create(context, store, registration, address, name, await hasher.hash(password))
    if user is None:
        raise AlreadyExistsError(
            f"TASKMAN_ADMIN_EMAIL {address} belongs to an account that was made otherwise. Name another address, or "
            "leave the setting out and use the set-up link.",
            reason="EMAIL_TAKEN",
        )
    if done is not None and (known := await _known(context, address, {user})) is not None:
        # Made from these settings long ago, and an administrator no more.
        await _restore(context, known, is_admin=False)
    await _complete(context, store, user, again=done is not None)
    return user


async def set_up_administrator(
    runtime: Runtime,
    store: AuthenticationStore,
    hasher: PasswordHasher,
    origin: Context,
    *,
    token: str,
    email: str,
    password: str,
    display_name: str,
) -> str | None:
    """Uses the token up and makes the administrator; answers the user id, None when the address is taken.

    Raises:
        InvalidArgumentError: the token was used, is too old, or never was one.
        TaskManError: a peer does not answer; the token can be used again.
    """
    token_hash = digest(token)
    if await store.action_token(token_hash, SET_UP, origin.now) is None:
        raise _bad_token()
    password_hash = await hasher.hash(password)
    context = runtime.context(DEFAULT_ORGANIZATION, request_id=origin.request_id, traceparent=origin.traceparent)
    context.origin = origin.origin
    # First of all, so that one token makes one administrator, however many calls hold it.
    async with runtime.db.transaction() as tx:
        if not await store.use_action_token(tx, token_hash, SET_UP, origin.now):
            raise _bad_token()
    try:
        registration = f"registration_{digest(token_hash + email)[:32]}"
        user = await _create(context, store, registration, email, display_name, password_hash)
        if user is not None:
            await _complete(context, store, user, again=True)
    except BaseException:
        await _release(runtime, store, token_hash)
        raise
    if user is None:
        await _release(runtime, store, token_hash)
    return user


async def _administrators(context: Context) -> list[User]:
    """Who has the role now, shut out or not."""
    names: list[str] = []
    token = ""
    while True:
        page = await context.peer(
            "IamAdminService.ListAssignments",
            ListAssignmentsRequest(
                filter=f'role == "{ROLE}" && (expire_time == null || expire_time > now)',
                page_size=BATCH,
                page_token=token,
            ),
            ListAssignmentsResponse,
        )
        names += [each.principal for each in page.assignments]
        token = page.next_page_token
        if not token:
            break
    users: list[User] = []
    for start in range(0, len(names), BATCH):
        request = BatchGetUsersRequest(users=names[start : start + BATCH])
        users += (await context.peer("UserService.BatchGetUsers", request, BatchGetUsersResponse)).users
    return users


async def _known(context: Context, address: str, users: set[str]) -> User | None:
    """Whose address it is, if it is one of these users."""
    request = BatchGetUsersRequest(emails=[address])
    found = (await context.peer("UserService.BatchGetUsers", request, BatchGetUsersResponse)).users
    return next((user for user in found if user.id in users), None)


async def _restore(context: Context, user: User, *, is_admin: bool) -> None:
    """Gives somebody who administered before their way in again; the password stays the one they had."""
    if not is_admin:
        request = CreateAssignmentRequest(assignment=Assignment(principal=user.id, role=ROLE))
        with contextlib.suppress(AlreadyExistsError):
            await context.peer("IamAdminService.CreateAssignment", request, Assignment)
    if user.state == SHUT_OUT:
        await context.peer("UserService.ActivateUser", ActivateUserRequest(user=user.id), User)


async def _release(runtime: Runtime, store: AuthenticationStore, token_hash: str) -> None:
    async with runtime.db.transaction() as tx:
        await store.release_action_token(tx, token_hash)


async def _create(
    context: Context, store: AuthenticationStore, registration: str, email: str, display_name: str, password_hash: str
) -> str | None:
    answer = await create_account(
        context,
        store,
        registration=registration,
        email=email,
        display_name=display_name,
        password_hash=password_hash,
        role=ROLE,
    )
    if not answer.created or answer.user is None:
        return None
    await grant_role(context, answer.user.id, answer.organization, ROLE)
    return answer.user.id


async def _complete(context: Context, store: AuthenticationStore, user: str, *, again: bool) -> None:
    try:
        async with context.runtime.db.transaction() as tx:
            if again:
                await store.drop_milestone(tx, ADMINISTRATOR)
            await store.add_milestone(tx, ADMINISTRATOR, DEFAULT_ORGANIZATION, user, context.now)
            await store.delete_action_tokens(tx, "", SET_UP)
            data = AuthenticationEvent(user=user, ip_address=context.origin.ip_address)
            await context.emit(tx, "auth.setup.completed", data, subject=user, actor=user)
    except UniqueViolation:
        return  # another process of this deployment was faster; there is an administrator, and that is what is wanted


def _bad_token() -> InvalidArgumentError:
    return InvalidArgumentError(
        "The set-up token was used already or has expired. Restart the server: it prints a new one.",
        reason="SETUP_TOKEN_INVALID",
        field_violations=[FieldViolation("token", "it was used already or has expired", "token")],
    )
