"""Signing up, in, on and out, over every wire (AUTHN-1 to AUTHN-5)."""

from __future__ import annotations

import base64
import json
from typing import Any

from taskman_sdk.errors import (
    InvalidArgumentError,
    TaskManError,
    UnauthenticatedError,
)
from tests.contract.waiting import eventually
from tests.contract.world import PASSWORD, Person, Site, unique

Json = dict[str, Any]


def claims_of(token: str) -> tuple[Json, Json]:
    """Header and claims of a JWT, unverified."""
    header, claims = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in token.split(".")[:2])
    return header, claims


async def test_signing_up_and_in(site: Site) -> None:
    """AUTHN-1: register and log in; the token is asymmetrically signed and names user, organization and session."""
    email = f"{unique('zoe')}@example.com"
    registration = {"email": email.upper(), "password": PASSWORD, "display_name": "Zoë"}
    answer = await site.wire.call("AuthenticationService.Register", registration)
    assert answer["next_step"]
    zoe = await site.arrived(email)
    assert zoe.email == answer["email"]
    tokens = await site.wire.call("AuthenticationService.Login", {"email": email, "password": PASSWORD})
    assert tokens["token_type"] == "Bearer"
    assert tokens["expires_in"] == 900
    header, claims = claims_of(tokens["access_token"])
    assert header["alg"] in ("EdDSA", "Ed25519", "ES256")
    assert claims["sub"] == zoe.id
    assert claims["org"] == "default"
    assert {"iss", "aud", "exp", "sid", "jti"} <= claims.keys()
    me = await zoe.call("UserService.GetMe")
    assert me["display_name"] == "Zoë"
    assert me["state"] == "active"


async def test_the_published_keys_verify_the_tokens(site: Site, ann: Person) -> None:
    """AUTHN-3: the JWKS holds the key that signed, and no private part."""
    from joserfc import jwt
    from joserfc.jwk import KeySet

    jwks = await site.wire.call("AuthenticationService.GetJwks", {})
    assert all("d" not in key for key in jwks["keys"])
    token = jwt.decode(ann.token, KeySet.import_key_set(jwks), algorithms=["EdDSA", "Ed25519"])  # type: ignore[arg-type]
    assert token.claims["sub"] == ann.id


async def test_a_refresh_token_is_good_once_and_its_answer_may_be_lost(site: Site, ann: Person) -> None:
    """AUTHN-2: rotation; the immediate predecessor is honoured for a short grace."""
    refresh = "AuthenticationService.Refresh"
    second = await site.wire.call(refresh, {"refresh_token": ann.refresh_token})
    assert second["refresh_token"] != ann.refresh_token
    assert await site.wire.call("UserService.GetMe", {}, second["access_token"])
    again = await site.wire.call(refresh, {"refresh_token": ann.refresh_token})
    assert await site.wire.call("UserService.GetMe", {}, again["access_token"])


async def test_a_refresh_token_that_was_used_up_ends_the_whole_family(site: Site, ann: Person) -> None:
    """AUTHN-2: reuse revokes every token of the session, and is on record."""
    refresh = "AuthenticationService.Refresh"
    second = await site.wire.call(refresh, {"refresh_token": ann.refresh_token})
    third = await site.wire.call(refresh, {"refresh_token": second["refresh_token"]})
    reused = await site.refused(refresh, {"refresh_token": ann.refresh_token})
    assert (type(reused), reused.reason) == (UnauthenticatedError, "REFRESH_TOKEN_REUSED")
    family = await site.refused(refresh, {"refresh_token": third["refresh_token"]})
    assert (type(family), family.reason) == (UnauthenticatedError, "SESSION_ENDED")

    async def out() -> bool:
        try:
            await site.wire.call("UserService.GetMe", {}, third["access_token"])
        except UnauthenticatedError:
            return True
        return False

    await eventually(out, "the end of the family", seconds=5)
    record = await site.event(f'type == "auth.token.reused" && actor == "{ann.id}"')
    assert record["result"] == "failure"


async def test_an_access_token_is_no_refresh_token_and_the_other_way_round(site: Site, ann: Person) -> None:
    """AUTHN-1: each token does its own work."""
    error = await site.refused("AuthenticationService.Refresh", {"refresh_token": ann.token})
    assert isinstance(error, UnauthenticatedError)
    error = await site.refused("UserService.GetMe", {}, ann.refresh_token)
    assert isinstance(error, UnauthenticatedError)


async def test_logging_out_ends_this_session_alone(site: Site, ann: Person) -> None:
    """AUTHN-1, AUTHN-4: within a second nothing of the session is good any more; the other session is."""
    other = await site.login(ann.email)
    answer = await ann.call("AuthenticationService.Logout")
    assert answer["ended_sessions"] == 1

    async def out() -> bool:
        try:
            await ann.call("UserService.GetMe")
        except UnauthenticatedError:
            return True
        return False

    await eventually(out, "the end of the session", seconds=5)
    error = await site.refused("AuthenticationService.Refresh", {"refresh_token": ann.refresh_token})
    assert isinstance(error, UnauthenticatedError)
    assert (await other.call("UserService.GetMe"))["id"] == ann.id


async def test_logging_out_everywhere_ends_all_sessions(site: Site, ann: Person) -> None:
    """AUTHN-1: `everywhere`."""
    other = await site.login(ann.email)
    first = await ann.call("UserService.GetMe")
    answer = await other.call("AuthenticationService.Logout", everywhere=True)
    assert answer["ended_sessions"] >= 2
    assert first["id"] == ann.id

    async def out() -> bool:
        try:
            await ann.call("UserService.GetMe")
        except UnauthenticatedError:
            return True
        return False

    await eventually(out, "the end of the other session", seconds=5)


async def test_a_wrong_password_and_an_unknown_address_are_told_alike(site: Site, ann: Person) -> None:
    """AUTHN-5: nothing in the answer says whether there is such an account."""
    login = "AuthenticationService.Login"
    wrong = await site.refused(login, {"email": ann.email, "password": "not-the-password"})
    unknown = await site.refused(login, {"email": f"{unique('nobody')}@example.com", "password": PASSWORD})
    for error in (wrong, unknown):
        error.request_id = ""
    assert wrong == unknown
    assert (type(wrong), wrong.reason) == (UnauthenticatedError, "CREDENTIALS_INVALID")


async def test_signing_up_again_tells_the_owner_alone(site: Site, ann: Person) -> None:
    """AUTHN-5: the answer is the same, nothing changes, the owner gets a mail."""
    fresh = f"{unique('fresh')}@example.com"
    operation, name = "AuthenticationService.Register", {"display_name": "Mallory"}
    first = await site.wire.call(operation, {"email": fresh, "password": "another-secret-77", **name})
    again = await site.wire.call(operation, {"email": ann.email, "password": "another-secret-77", **name})
    assert {**again, "email": ""} == {**first, "email": ""}
    await site.mail.wait(ann.email, lambda mail: "already" in mail.text.lower() or "sign" in mail.subject.lower())
    assert (await site.login(ann.email, PASSWORD)).id == ann.id
    error = await site.refused("AuthenticationService.Login", {"email": ann.email, "password": "another-secret-77"})
    assert isinstance(error, UnauthenticatedError)


async def test_a_forgotten_password_is_set_by_a_mailed_link_that_works_once(site: Site, ann: Person) -> None:
    """AUTHN-5: a single-use link, every session ends, the old password is gone."""
    await site.wire.call("AuthenticationService.RequestPasswordReset", {"email": ann.email})
    mail = await site.mail.wait(ann.email, lambda mail: "/reset-password?token=" in mail.text)
    assert "/reset-password?token=" in mail.html
    token, new = mail.link("/reset-password"), "a-new-otter-was-here"
    reset = "AuthenticationService.ResetPassword"
    weak = await site.refused(reset, {"token": token, "password": "password1"})
    assert isinstance(weak, InvalidArgumentError)
    await site.wire.call(reset, {"token": token, "password": new})
    again = await site.refused(reset, {"token": token, "password": "yet-another-otter"})
    assert (type(again), again.reason) == (InvalidArgumentError, "RESET_TOKEN_INVALID")
    old = await site.refused("AuthenticationService.Login", {"email": ann.email, "password": PASSWORD})
    assert isinstance(old, UnauthenticatedError)
    assert (await site.login(ann.email, new)).id == ann.id
    ended = await site.refused("AuthenticationService.Refresh", {"refresh_token": ann.refresh_token})
    assert isinstance(ended, UnauthenticatedError)


async def test_a_reset_for_nobody_is_answered_alike_and_mails_nobody(site: Site, ann: Person) -> None:
    """AUTHN-5: same answer; no mail to an address without an account."""
    nobody = f"{unique('nobody')}@example.com"
    operation = "AuthenticationService.RequestPasswordReset"
    assert await site.wire.call(operation, {"email": nobody}) == await site.wire.call(operation, {"email": ann.email})
    # The mail that was asked for later has come, so that the first one would have too.
    await site.mail.wait(ann.email, lambda mail: "/reset-password?token=" in mail.text)
    assert site.mail.to(nobody) == []


async def test_changing_the_password_keeps_this_session_and_ends_the_others(site: Site, ann: Person) -> None:
    """AUTHN-5, AUTHN-7: the current one is asked for; a known one is refused."""
    other = await site.login(ann.email)
    change = "AuthenticationService.ChangePassword"
    wrong = await ann.refused(change, current_password="not-the-password", new_password="a-new-otter-was-here")
    assert (type(wrong), wrong.reason) == (InvalidArgumentError, "CURRENT_PASSWORD_WRONG")
    common = await ann.refused(change, current_password=PASSWORD, new_password="password123")
    assert isinstance(common, InvalidArgumentError)
    await ann.call(change, current_password=PASSWORD, new_password="a-new-otter-was-here")
    assert await ann.call("UserService.GetMe")
    error = await site.refused("AuthenticationService.Refresh", {"refresh_token": other.refresh_token})
    assert isinstance(error, UnauthenticatedError)
    assert (await site.login(ann.email, "a-new-otter-was-here")).id == ann.id


async def test_bad_passwords_are_refused_with_the_field(site: Site) -> None:
    """AUTHN-7: short, common and personal passwords, none of them echoed."""
    email = f"{unique('weak')}@example.com"
    for password in ("short", "password", "aaaaaaaaaaaa", email):
        request = {"email": email, "password": password, "display_name": "W"}
        error = await site.refused("AuthenticationService.Register", request)
        assert isinstance(error, InvalidArgumentError), password
        assert [each.field for each in error.field_violations] == ["password"]
        assert f"'{password}'" not in str(error)


async def test_guessing_is_slowed_down(site: Site, ann: Person) -> None:
    """AUTHN-8: after some failures an answer says to wait, and for how long; a deadline is not a lock-out."""
    guess = {"email": ann.email, "password": "not-the-password"}
    errors: list[TaskManError] = []
    for _ in range(8):
        errors.append(await site.refused("AuthenticationService.Login", guess))
        if errors[-1].reason == "LOGIN_THROTTLED":
            break
    assert errors[-1].reason == "LOGIN_THROTTLED"
    assert errors[-1].retry_after is not None
    assert 0 < errors[-1].retry_after <= 900
    assert len(errors) > 3


async def test_the_setup_token_makes_an_administrator_once(site: Site) -> None:
    """OPS-1: where there is an administrator, no token is good."""
    request = {"token": "x" * 40, "email": "second@example.com", "password": PASSWORD, "display_name": "S"}
    error = await site.refused("AuthenticationService.SetUp", request)
    assert 400 <= error.http_status < 500


async def test_no_secret_stands_in_an_event(site: Site, ann: Person) -> None:
    """AUTHN-1, USER-1: passwords and tokens are in no record of the log."""
    await ann.call("AuthenticationService.ChangePassword", current_password=PASSWORD, new_password="otters-in-the-sea")
    await site.event(f'type == "auth.password.changed" && actor == "{ann.id}"')
    records = json.dumps(await site.events(f'actor == "{ann.id}"'))
    for secret in (PASSWORD, "otters-in-the-sea", ann.token, ann.refresh_token):
        assert secret not in records
