"""Changing a password, resetting a forgotten one by a mailed link, and the first administrator."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from taskman_sdk import codec, contract
from taskman_sdk.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    ResourceExhaustedError,
    TaskManError,
    UnauthenticatedError,
    UnavailableError,
)
from taskman_sdk.proto.taskman.authentication.v1.authentication_pb import (
    ChangePasswordRequest,
    ChangePasswordResponse,
    RequestPasswordResetRequest,
    RequestPasswordResetResponse,
    ResetPasswordRequest,
    ResetPasswordResponse,
    SetUpRequest,
    SetUpResponse,
)
from taskman_sdk.proto.taskman.iam.v1.iam_pb import ListAssignmentsRequest, ListAssignmentsResponse
from taskman_sdk.proto.taskman.notification.v1.notification_pb import SendMailRequest
from taskman_sdk.proto.taskman.user.v1.user_pb import CreateUserRequest, User
from taskman_server.kit.rpc import CallOptions, Channel, Principal, service_principal
from taskman_server.services.authentication import ensure_administrator, issue_setup_token
from taskman_server.services.authentication.rules import PAIR_LIMIT
from tests.store.authentication.harness import PASSWORD, PUBLIC_URL, House, open_house
from tests.store.authentication.test_registration import _cut
from tests.store.databases import Databases
from tests.store.support import until

NEW = "quite-another-badger"
TESTS = service_principal("tests", "default", "user_admin")


async def _change(house: House, caller: Principal, current: str, new: str, ip: str = "203.0.113.7") -> None:
    request = ChangePasswordRequest(current_password=current, new_password=new)
    await house.call("AuthenticationService.ChangePassword", request, ChangePasswordResponse, caller=caller, ip=ip)


async def _wish(house: House, address: str) -> RequestPasswordResetResponse:
    request = RequestPasswordResetRequest(email=address)
    return await house.call("AuthenticationService.RequestPasswordReset", request, RequestPasswordResetResponse)


async def _reset(house: House, token: str, password: str = NEW) -> None:
    request = ResetPasswordRequest(token=token, password=password)
    await house.call("AuthenticationService.ResetPassword", request, ResetPasswordResponse)


async def _send(house: House) -> None:
    await house.services["authentication"].parts.workers[0].send_due()  # type: ignore[attr-defined]


@pytest.fixture
def mails(house: House) -> list[SendMailRequest]:
    """What the Notification service was handed for sending, and took."""
    taken: list[SendMailRequest] = []
    house.channels.add("notification", Tap(house.channels._by_area["notification"], taken))
    return taken


class Tap:
    """A line to the Notification service on which one can listen."""

    def __init__(self, behind: Channel, taken: list[SendMailRequest]) -> None:
        self._behind = behind
        self._taken = taken

    async def unary(
        self, method: contract.Method, request: codec.Message[Any], options: CallOptions
    ) -> codec.Message[Any]:
        """Hands an RPC on."""
        answer = await self._behind.unary(method, request, options)
        if isinstance(request, SendMailRequest):
            self._taken.append(request)
        return answer

    def stream(self, method: contract.Method, request: codec.Message[Any], options: CallOptions) -> Any:
        """No RPC here streams."""
        return self._behind.stream(method, request, options)


def _token(mail: SendMailRequest) -> str:
    assert mail.template == "password_reset"
    (link,) = (each.substitution for each in mail.variables if each.name == "link")
    before, _, token = link.partition("=")
    assert before == f"{PUBLIC_URL}/reset-password?token"
    return token


async def _mailed(house: House, mails: list[SendMailRequest]) -> str:
    """The token in the newest mail."""
    await _send(house)
    return _token(mails[-1])


async def test_a_changed_password_ends_the_other_sessions_and_keeps_this_one(house: House) -> None:
    """AUTHN-5."""
    tokens, ann = await house.person("ann@example.com")
    other = await house.login("ann@example.com")
    await _change(house, ann, PASSWORD, NEW)
    assert await house.validate(tokens.access_token) == ann
    with pytest.raises(UnauthenticatedError):
        await house.validate(other.access_token)
    with pytest.raises(UnauthenticatedError):
        await house.login("ann@example.com")
    await house.login("ann@example.com", NEW)
    (event,) = await house.events("auth.password.changed")
    assert (event.data["ended_sessions"], event.actor) == (1, ann.id)


async def test_the_current_password_cannot_be_guessed_with_a_stolen_token(house: House) -> None:
    """AUTHN-8: the same brakes as at sign-in."""
    _, ann = await house.person("ann@example.com")
    for _ in range(PAIR_LIMIT.free):
        with pytest.raises(InvalidArgumentError) as caught:
            await _change(house, ann, "a guess", NEW)
        assert caught.value.reason == "CURRENT_PASSWORD_WRONG"
    with pytest.raises(ResourceExhaustedError):
        await _change(house, ann, PASSWORD, NEW)
    with pytest.raises(InvalidArgumentError) as caught:
        await _change(house, ann, PASSWORD, "password123", ip="192.0.2.1")
    assert caught.value.field_violations[0].field == "new_password"


async def test_a_forgotten_password_is_set_by_the_mailed_link_once(house: House, mails: list[SendMailRequest]) -> None:
    """AUTHN-5: single use; every session ends; the token stands nowhere but in the mail."""
    tokens, ann = await house.person("ann@example.com")
    await _wish(house, "Ann@Example.com")
    token = await _mailed(house, mails)
    await _reset(house, token)
    for attempt in (token, token):
        with pytest.raises(InvalidArgumentError) as caught:
            await _reset(house, attempt, "yet-another-heron")
        assert caught.value.reason == "RESET_TOKEN_INVALID"
        assert token not in str(caught.value)
    with pytest.raises(UnauthenticatedError):
        await house.validate(tokens.access_token)
    with pytest.raises(UnauthenticatedError):
        await house.login("ann@example.com")
    await house.login("ann@example.com", NEW)
    names = [event.name for event in await house.events("auth.password.reset_requested", "auth.password.changed")]
    assert names == ["auth.password.reset_requested", "auth.password.changed"]
    assert token not in "".join(event.to_json() for event in house.heard)
    assert token not in str(await house.rows("authentication", "action_tokens"))
    assert ann.id in str(await house.rows("authentication", "action_tokens"))


async def test_whether_there_is_an_account_shows_nowhere(house: House, mails: list[SendMailRequest]) -> None:
    """AUTHN-5: same answer and same single write for every address; only then does a worker look."""
    await house.register("ann@example.com")
    answers = [await _wish(house, address) for address in ("ann@example.com", "nobody@example.com")]
    assert answers[0] == answers[1]
    requests = await house.rows("authentication", "mail_requests")
    assert [row.email for row in requests] == ["ann@example.com", "nobody@example.com"]
    assert "token" not in str(requests[0]._asdict())
    await _send(house)
    assert [mail.email for mail in mails] == ["ann@example.com"]
    assert await house.rows("authentication", "mail_requests") == []


async def test_an_address_is_not_flooded_with_mails(house: House, mails: list[SendMailRequest]) -> None:
    """AUTHN-5: one a minute, and the newest link alone works."""
    await house.register("ann@example.com")
    for _ in range(5):
        await _wish(house, "ann@example.com")
    await _send(house)
    for _ in range(3):
        await _wish(house, "ann@example.com")
        await _send(house)
    assert len(await house.events("auth.password.reset_requested")) == 1
    house.clock.advance(61)
    await _wish(house, "ann@example.com")
    await _send(house)
    assert len(mails) == 2
    works = []
    for token in map(_token, mails):
        try:
            await _reset(house, token)
            works.append(token)
        except InvalidArgumentError:
            continue
    assert works == [_token(mails[1])]


async def test_the_worker_sends_as_soon_as_it_is_asked(house: House, mails: list[SendMailRequest]) -> None:
    """AUTHN-5: nobody waits for the next look at the table; what failed goes out by itself when it is due."""
    for name in ("ann", "bob"):
        await house.register(f"{name}@example.com")
    worker = asyncio.create_task(house.services["authentication"].parts.workers[0].run())

    async def sent() -> bool:
        return bool(mails)

    async def waiting() -> bool:
        return any(row.attempts for row in await house.rows("authentication", "mail_requests"))

    try:
        await _wish(house, "ann@example.com")
        await until(sent)
        whole = _cut(house, "notification", "SendMail")
        await _wish(house, "bob@example.com")
        await until(waiting)
        house.channels.add("notification", whole)
        house.clock.advance(2)
        await _wish(house, "nobody@example.com")
        await until(lambda: _none_waits(house))
        assert [mail.email for mail in mails] == ["ann@example.com", "bob@example.com"]
    finally:
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)


async def _none_waits(house: House) -> bool:
    return not await house.rows("authentication", "mail_requests")


async def test_a_link_runs_out_after_an_hour(house: House, mails: list[SendMailRequest]) -> None:
    """AUTHN-5."""
    await house.register("ann@example.com")
    await _wish(house, "ann@example.com")
    token = await _mailed(house, mails)
    house.clock.advance(3601)
    with pytest.raises(InvalidArgumentError) as caught:
        await _reset(house, token)
    assert caught.value.reason == "RESET_TOKEN_INVALID"


async def test_a_bad_password_does_not_use_the_link_up_and_two_at_once_share_it_not(
    house: House, mails: list[SendMailRequest]
) -> None:
    """AUTHN-5, AUTHN-7."""
    await house.register("ann@example.com")
    await _wish(house, "ann@example.com")
    token = await _mailed(house, mails)
    with pytest.raises(InvalidArgumentError) as caught:
        await _reset(house, token, "password123")
    assert caught.value.reason == "PASSWORD_TOO_COMMON"
    results = await asyncio.gather(
        *(_reset(house, token, f"a-different-heron-{n}") for n in range(4)), return_exceptions=True
    )
    assert sum(result is None for result in results) == 1


async def test_a_mail_waits_while_notifications_are_away(house: House, mails: list[SendMailRequest]) -> None:
    """AUTHN-5: the wish is durable; the link is made when it can be handed over."""
    await house.register("ann@example.com")
    whole = _cut(house, "notification", "SendMail")
    await _wish(house, "ann@example.com")
    for _ in range(3):
        await _send(house)
        house.clock.advance(600)
    (row,) = await house.rows("authentication", "mail_requests")
    assert row.attempts == 3
    house.channels.add("notification", whole)
    token = await _mailed(house, mails)
    await _reset(house, token)


async def test_whoever_an_administrator_made_sets_the_first_password_with_a_link(
    house: House, mails: list[SendMailRequest]
) -> None:
    """USER-1, OPEN-POINTS 2: the event makes the empty record; the link gives it a password."""
    user = User(email="new@example.com", display_name="New")
    await house.call("UserService.CreateUser", CreateUserRequest(user=user), User, caller=TESTS)
    await house.settled()
    (row,) = await house.rows("authentication", "credentials")
    assert (row.email, row.password_hash) == ("new@example.com", None)
    await _wish(house, "new@example.com")
    token = await _mailed(house, mails)
    await _reset(house, token)
    await house.login("new@example.com", NEW)


async def _set_up(house: House, token: str, address: str = "root@example.com") -> str:
    request = SetUpRequest(token=token, email=address, password=PASSWORD, display_name="Root")
    return (await house.call("AuthenticationService.SetUp", request, SetUpResponse)).user


async def _roles(house: House, user: str) -> list[str]:
    answer = await house.call(
        "IamAdminService.ListAssignments", ListAssignmentsRequest(), ListAssignmentsResponse, caller=TESTS
    )
    return [each.role for each in answer.assignments if each.principal == user]


@pytest.mark.parametrize("signup", ["open", "closed", "organization"])
async def test_the_first_start_makes_an_administrator_with_a_token_used_once(databases: Databases, signup: str) -> None:
    """OPS-1: in the organization `default`, whoever else may sign up."""
    async with open_house(databases, signup=signup) as house:
        runtime = house.runtime("authentication")
        void = await issue_setup_token(runtime)
        token = await issue_setup_token(runtime)
        assert void is not None
        assert token is not None
        with pytest.raises(InvalidArgumentError) as caught:
            await _set_up(house, void)
        assert caught.value.reason == "SETUP_TOKEN_INVALID"
        user = await _set_up(house, token)
        assert await _roles(house, user) == ["admin"]
        principal = await house.validate((await house.login("root@example.com")).access_token)
        assert (principal.id, principal.organization) == (user, "default")
        with pytest.raises(InvalidArgumentError):
            await _set_up(house, token, "second@example.com")
        assert await issue_setup_token(runtime) is None
        assert [event.actor for event in await house.events("auth.setup.completed")] == [user]


async def test_one_token_makes_one_administrator_however_many_call(house: House) -> None:
    """OPS-1."""
    token = await issue_setup_token(house.runtime("authentication"))
    assert token is not None
    results = await asyncio.gather(
        *(_set_up(house, token, f"root{n}@example.com") for n in range(4)), return_exceptions=True
    )
    assert sum(isinstance(result, str) for result in results) == 1
    assert sum(isinstance(result, InvalidArgumentError) for result in results) == 3
    assert len(await house.rows("users", "users")) == 1


@pytest.mark.parametrize(("area", "name"), [("user", "ProvisionUser"), ("iam", "ProvisionPrincipal")])
@pytest.mark.parametrize("after", [False, True])
async def test_a_set_up_that_was_cut_off_is_gone_on_with(house: House, area: str, name: str, after: bool) -> None:
    """OPS-1: the token works again, and the same person comes of it."""
    token = await issue_setup_token(house.runtime("authentication"))
    assert token is not None
    whole = _cut(house, area, name, after=after)
    with pytest.raises(UnavailableError):
        await _set_up(house, token)
    house.channels.add(area, whole)
    user = await _set_up(house, token)
    assert await _roles(house, user) == ["admin"]
    await house.login("root@example.com")


async def test_an_address_that_is_taken_keeps_the_set_up_token_good(house: House) -> None:
    """OPS-1: rights are not given to whoever signed up first."""
    await house.register("ann@example.com")
    token = await issue_setup_token(house.runtime("authentication"))
    assert token is not None
    with pytest.raises(AlreadyExistsError):
        await _set_up(house, token, "ann@example.com")
    assert await _set_up(house, token)


async def test_the_settings_administrator_is_made_once(house: House) -> None:
    """OPS-1: called at every start; the first password stays whatever became of it."""
    runtime = house.runtime("authentication")
    whole = _cut(house, "iam", "ProvisionPrincipal")
    with pytest.raises(UnavailableError):
        await ensure_administrator(runtime, "Root@Example.com", PASSWORD, "Root")
    house.channels.add("iam", whole)
    user = await ensure_administrator(runtime, "Root@Example.com", PASSWORD, "Root")
    principal = await house.validate((await house.login("root@example.com")).access_token)
    assert principal.id == user
    await _change(house, principal, PASSWORD, NEW)
    assert await ensure_administrator(runtime, "root@example.com", PASSWORD, "Root") == user
    assert await ensure_administrator(runtime, "other@example.com", PASSWORD) == user
    await house.login("root@example.com", NEW)
    assert await _roles(house, user) == ["admin"]
    assert await issue_setup_token(runtime) is None


@pytest.mark.parametrize(
    ("address", "password", "word"),
    [
        ("ann@example.com", PASSWORD, "TASKMAN_ADMIN_EMAIL"),
        ("nothing", PASSWORD, "TASKMAN_ADMIN_EMAIL"),
        ("root@example.com", "password123", "TASKMAN_ADMIN_PASSWORD"),
    ],
)
async def test_what_is_wrong_with_the_settings_administrator_is_named(
    house: House, address: str, password: str, word: str
) -> None:
    """OPS-1: the setting, never the password."""
    await house.register("ann@example.com")
    with pytest.raises(TaskManError) as caught:
        await ensure_administrator(house.runtime("authentication"), address, password)
    assert word in str(caught.value)
    assert password not in str(caught.value)
