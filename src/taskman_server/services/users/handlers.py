"""The RPCs of the Users service."""

from __future__ import annotations

from typing import Final

from sqlalchemy import ColumnElement

from taskman_sdk.errors import AlreadyExistsError, FieldViolation, InvalidArgumentError
from taskman_sdk.proto.taskman.iam.v1.iam_pb import (
    ResumePrincipalRequest,
    ResumePrincipalResponse,
    SuspendPrincipalRequest,
    SuspendPrincipalResponse,
)
from taskman_sdk.proto.taskman.user.v1.user_pb import (
    ActivateUserRequest,
    BatchGetUsersRequest,
    BatchGetUsersResponse,
    CreateUserRequest,
    DeactivateUserRequest,
    GetMeRequest,
    GetUserRequest,
    ListUsersRequest,
    ListUsersResponse,
    ProvisionUserRequest,
    ProvisionUserResponse,
    UpdateUserRequest,
    User,
    UserEvent,
)
from taskman_server.kit import filters
from taskman_server.kit.db import Row, Transaction, UniqueViolation
from taskman_server.kit.emails import normal_email
from taskman_server.kit.ids import new_id
from taskman_server.kit.masks import changed_paths
from taskman_server.kit.organizations import DEFAULT_ORGANIZATION
from taskman_server.kit.paging import Keyset, page, page_size, parse_order_by
from taskman_server.kit.rpc import Call, Runtime
from taskman_server.kit.rpc.call import not_found
from taskman_server.services.users import rules
from taskman_server.services.users.convert import resource_of, user_of
from taskman_server.services.users.store import FILTER_COLUMNS, ORDERS, RESOURCE_COLUMNS, UserCache, UserStore, keyset

__all__ = ["UserHandlers"]

DEFAULT_ROLE: Final = "member"
ME: Final = "me"
READ: Final = "users.read"
_CACHED: Final = 10_000  # users, some 1 KB each
_FILTER: Final = filters.list_environment(User)


class UserHandlers:
    """Answers the RPCs of `UserService`."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        db = runtime.db
        cache = None if db.shared else UserCache(_CACHED, runtime.telemetry.cache("users"), db.elsewhere)
        self._store = UserStore(runtime.db, cache)

    async def create_user(self, request: CreateUserRequest, call: Call) -> User:
        """Makes a user in the caller's organization, who has no password yet."""
        assert request.user is not None
        given = request.user
        if not given.email:
            raise _needed("user.email", "an address is needed")
        email = normal_email(given.email, "user.email")
        names = {name: getattr(given, name) for name in rules.MUTABLE}
        values = rules.checked_values(names)
        await call.authorize({"id": "", "email": email, "state": "active"})
        rules.check_may_create(self._runtime.settings.signup, call.principal.organization)
        tx = await call.begin()
        row = await self._insert(tx, call, call.principal.organization, email, values, None)
        if row is None:
            raise _taken(email)
        user = user_of(row)
        await call.emit(tx, "user.created", UserEvent(user=user, default_role=DEFAULT_ROLE), subject=user.id)
        return user

    async def get_me(self, request: GetMeRequest, call: Call) -> User:
        """The caller, whatever the caller's rights."""
        return user_of(await self._get(call, ME))

    async def get_user(self, request: GetUserRequest, call: Call) -> User:
        """One user of the caller's organization; one of another is not there."""
        row = await self._get(call, request.user)
        await call.authorize(resource_of(row), hidden=not_found("user", request.user), read_permission=READ)
        return user_of(row)

    async def update_user(self, request: UpdateUserRequest, call: Call) -> User:
        """Changes a profile: one's own by the policy that ships with the system, others' with the permission."""
        assert request.user is not None
        given = request.user
        paths = changed_paths(given, request.update_mask, rules.MUTABLE, "user")
        values = rules.checked_values({path: getattr(given, path) for path in paths})
        row = await self._get(call, given.id)
        await call.authorize(resource_of(row), hidden=not_found("user", given.id), read_permission=READ)
        tx = await call.begin()
        before = await self._locked(tx, call, row.id)
        call.check_etag(given.etag, rules.etag(before.id, before.version), "The user")
        changes = {name: value for name, value in values.items() if getattr(before, name) != value}
        if not changes:
            return user_of(before)
        return await self._change(tx, call, before, changes, "user.updated")

    async def list_users(self, request: ListUsersRequest, call: Call) -> ListUsersResponse:
        """Users of the caller's organization that the caller may see (AUTHZ-5)."""
        order = _order(request.order_by)
        conditions = self._filter(request.filter, call)
        query = {
            "list": "users",
            "organization": call.principal.organization,
            "filter": request.filter,
            "order_by": request.order_by,
        }
        if request.page_token:
            conditions.append(self._after(request.page_token, query, order))
        visible = await self._visible(call)
        if visible is None:
            return ListUsersResponse()
        size = page_size(request.page_size)
        rows = await self._store.page(call.principal.organization, [*conditions, *visible], order, size + 1)
        shown, more = page(rows, size)
        token = self._runtime.pager.encode(query, order.values(shown[-1])) if more else ""
        return ListUsersResponse(users=[user_of(row) for row in shown], next_page_token=token)

    async def batch_get_users(self, request: BatchGetUsersRequest, call: Call) -> BatchGetUsersResponse:
        """Ids first, then addresses, each in the order asked; who is not there, or not to be seen, is left out."""
        visible = await self._visible(call)
        if visible is None:
            return BatchGetUsersResponse()
        organization, caller = call.principal.organization, call.principal.id
        ids = [caller if user == ME else user for user in request.users]
        emails = [_folded(email) for email in request.emails]
        rows = await self._store.several(organization, ids, emails, visible)
        known = {row.id: row for row in rows} | {row.email: row for row in rows}
        found = dict.fromkeys(known[key].id for key in (*ids, *emails) if key in known)
        return BatchGetUsersResponse(users=[user_of(known[user]) for user in found])

    async def deactivate_user(self, request: DeactivateUserRequest, call: Call) -> User:
        """Shuts a user out; the Authentication service hears of it and ends the sessions (AUTHN-4)."""
        row = await self._get(call, request.user)
        await call.authorize(resource_of(row), hidden=not_found("user", request.user), read_permission=READ)
        rules.check_not_oneself(call.principal.id, row.id)
        if row.state != "deactivated":
            # IAM notes it first, or refuses: it knows the administrators, and decides such requests one by one.
            noted = SuspendPrincipalRequest(principal=row.id, revision=row.version)
            await call.peer("IamAdminService.SuspendPrincipal", noted, SuspendPrincipalResponse)
        return await self._set_state(call, row, "deactivated", "user.deactivated")

    async def activate_user(self, request: ActivateUserRequest, call: Call) -> User:
        """Lets a user who was shut out sign in again."""
        row = await self._get(call, request.user)
        await call.authorize(resource_of(row), hidden=not_found("user", request.user), read_permission=READ)
        if row.state != "active":
            noted = ResumePrincipalRequest(principal=row.id, revision=row.version)
            await call.peer("IamAdminService.ResumePrincipal", noted, ResumePrincipalResponse)
        return await self._set_state(call, row, "active", "user.activated")

    async def provision_user(self, request: ProvisionUserRequest, call: Call) -> ProvisionUserResponse:
        """Makes the user of a sign-up, once for each registration.

        The organization is the calling service's, where it has one (the first administrator's is `default`); else
        the settings say where a sign-up lands (OPEN-POINTS 22).
        """
        email = normal_email(request.email)
        registration = request.registration or None
        if (answer := await self._provisioned(email, registration)) is not None:
            return answer
        values = {
            "display_name": rules.clean_name(request.display_name) or email.partition("@")[0],
            "locale": "",
            "time_zone": "",
        }
        tx = await call.begin()
        organization = call.principal.organization or self._landing()
        row = await self._insert(tx, call, organization, email, values, registration)
        if row is None:  # somebody was faster
            answer = await self._provisioned(email, registration, tx)
            assert answer is not None
            return answer
        user = user_of(row)
        event = UserEvent(user=user, registration=request.registration, default_role=request.default_role)
        # A person who signs up does it for themselves, without being signed in.
        await call.emit(tx, "user.created", event, subject=user.id, organization=organization, actor=user.id)
        return ProvisionUserResponse(user=user, created=True, organization=organization)

    async def _provisioned(
        self, email: str, registration: str | None, tx: Transaction | None = None
    ) -> ProvisionUserResponse | None:
        # One read: between two, another process could make the user.
        row = await self._store.by_email(email, tx)
        if row is None:
            return None
        made = registration is not None and row.registration == registration
        return ProvisionUserResponse(user=user_of(row), created=made, organization=row.organization)

    def _landing(self) -> str:
        return new_id("org") if self._runtime.settings.signup == "organization" else DEFAULT_ORGANIZATION

    async def _insert(
        self,
        tx: Transaction,
        call: Call,
        organization: str,
        email: str,
        values: dict[str, str],
        registration: str | None,
    ) -> Row | None:
        user = new_id("user")
        try:
            async with tx.savepoint():
                await self._store.insert(
                    tx,
                    user=user,
                    organization=organization,
                    email=email,
                    registration=registration,
                    now=call.now,
                    **values,
                )
        except UniqueViolation:
            return None
        return await self._store.get_for_update(tx, organization, user)

    async def _set_state(self, call: Call, seen: Row, state: str, event: str) -> User:
        tx = await call.begin()
        before = await self._locked(tx, call, seen.id)
        if before.state == state:
            return user_of(before)
        # What IAM has agreed to is about the record as it was seen.
        rules.check_unchanged(seen.version, before.version)
        return await self._change(tx, call, before, {"state": state}, event)

    async def _change(self, tx: Transaction, call: Call, before: Row, changes: dict[str, str], event: str) -> User:
        await self._store.update(tx, before, changes, call.now)
        user = user_of(await self._locked(tx, call, before.id))
        data = UserEvent(user=user, before=user_of(before), changed_fields=list(changes))
        await call.emit(tx, event, data, subject=user.id)
        return user

    async def _get(self, call: Call, user: str) -> Row:
        wanted = call.principal.id if user == ME else user
        row = await self._store.get(call.principal.organization, wanted)
        if row is None:
            raise not_found("user", user)
        return row

    async def _locked(self, tx: Transaction, call: Call, user: str) -> Row:
        row = await self._store.get_for_update(tx, call.principal.organization, user)
        if row is None:
            raise not_found("user", user)
        return row

    async def _visible(self, call: Call) -> list[ColumnElement[bool]] | None:
        """The caller's rights as conditions; None when nothing may be seen."""
        scope = await call.scope()
        if scope.denied:
            return None
        return [] if scope.program is None else [scope.program.plan(RESOURCE_COLUMNS, scope.constants)]

    def _filter(self, text: str, call: Call) -> list[ColumnElement[bool]]:
        program = filters.compile_filter(_FILTER, text)
        if program is None:
            return []
        return [filters.plan_filter(program, FILTER_COLUMNS, call.now)]

    def _after(self, token: str, query: dict[str, str], order: Keyset) -> ColumnElement[bool]:
        return order.after(self._runtime.pager.decode(token, query))


def _order(text: str) -> Keyset:
    name, descending = parse_order_by(text, ORDERS)
    return keyset(name, descending=descending)


def _folded(email: str) -> str:
    try:
        return normal_email(email)
    except InvalidArgumentError:
        return ""


def _needed(field: str, description: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{field}: {description}.",
        reason="FIELD_INVALID",
        field_violations=[FieldViolation(field, description, "required")],
    )


def _taken(email: str) -> AlreadyExistsError:
    return AlreadyExistsError(
        f"There is a user with the address {email} already. Addresses are unique; choose another one.",
        reason="EMAIL_TAKEN",
        metadata={"email": email},
    )
