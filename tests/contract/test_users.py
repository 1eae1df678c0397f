"""People, over every wire (USER-1, AUTHN-4)."""

from __future__ import annotations

import time

from taskman_sdk.errors import (
    AbortedError,
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from taskman_server.kit.identity import TTL
from tests.contract.waiting import eventually
from tests.contract.world import PASSWORD, Person, Site, unique


async def test_an_administrator_creates_a_user_who_chooses_a_password_by_mail(site: Site, admin: Person) -> None:
    """USER-1, AUTHN-5: no password is made for anybody, and no secret stands in the welcome mail."""
    email = f"{unique('eve')}@example.com"
    user = await admin.call("UserService.CreateUser", user={"email": email, "display_name": "  Eve   Adams "})
    assert user["id"].startswith("user_")
    assert (user["display_name"], user["state"]) == ("Eve Adams", "active")
    assert await admin.call("UserService.GetUser", user=user["id"]) == user
    await site.choose_password(email)
    eve = await site.arrived(email)
    assert eve.id == user["id"]
    assert await eve.call("UserService.GetUser", user="me") == await eve.call("UserService.GetMe")


async def test_an_address_is_taken_whatever_its_case(site: Site, admin: Person, ann: Person) -> None:
    """USER-1: unique, case-folded."""
    error = await admin.refused("UserService.CreateUser", user={"email": ann.email.upper(), "display_name": "A"})
    assert (type(error), error.reason) == (AlreadyExistsError, "EMAIL_TAKEN")


async def test_a_profile_changes_by_its_mask_and_etag(site: Site, ann: Person) -> None:
    """USER-1: the fields that are named, if nobody changed it meanwhile."""
    update = "UserService.UpdateUser"
    before = await ann.call("UserService.GetMe")
    after = await ann.call(
        update,
        user={"id": ann.id, "display_name": "Ann B", "locale": "de", "etag": before["etag"]},
        update_mask="display_name",
    )
    assert (after["display_name"], after["locale"]) == ("Ann B", before["locale"])
    assert after["etag"] != before["etag"]
    stale = await ann.refused(update, user={"id": ann.id, "locale": "fr", "etag": before["etag"]}, update_mask="locale")
    assert (type(stale), stale.reason, stale.http_status) == (AbortedError, "ETAG_MISMATCH", 412)
    assert stale.metadata["etag"] == after["etag"]
    cleared = await ann.call(update, user={"id": ann.id, "time_zone": "Europe/Berlin"}, update_mask="time_zone,locale")
    assert (cleared["time_zone"], cleared["locale"]) == ("Europe/Berlin", "")


async def test_a_mask_that_names_what_cannot_change_is_refused(site: Site, ann: Person) -> None:
    """USER-1: the error names the fields that can."""
    for path in ("email", "state", "nothing"):
        error = await ann.refused("UserService.UpdateUser", user={"id": ann.id}, update_mask=path)
        assert (type(error), error.reason) == (InvalidArgumentError, "UPDATE_MASK_INVALID")
        assert "display_name" in error.message
    error = await ann.refused(
        "UserService.UpdateUser", user={"id": ann.id, "time_zone": "Mars/Olympus"}, update_mask="time_zone"
    )
    assert [each.field for each in error.field_violations] == ["user.time_zone"]


async def test_a_profile_is_its_owners_to_change(site: Site, ann: Person, bob: Person) -> None:
    """USER-1, AUTHZ-2: members see each other and change themselves."""
    assert (await bob.call("UserService.GetUser", user=ann.id))["id"] == ann.id
    error = await bob.refused(
        "UserService.UpdateUser", user={"id": ann.id, "display_name": "X"}, update_mask="display_name"
    )
    assert (type(error), error.reason) == (PermissionDeniedError, "PERMISSION_MISSING")
    assert (await ann.call("UserService.GetMe"))["display_name"] == "Ann"


async def test_users_are_listed_filtered_ordered_and_paged(site: Site, admin: Person) -> None:
    """USER-1, TASK-6: no gap, no repeat."""
    mark = unique("crew")
    emails = [f"{mark}.{name}@example.com" for name in "abcde"]
    for email in reversed(emails):
        await admin.call("UserService.CreateUser", user={"email": email, "display_name": "Crew"})
    found, token = [], ""
    while True:
        page = await admin.call(
            "UserService.ListUsers",
            filter=f'email.startsWith("{mark}.") && state == "active"',
            order_by="email",
            page_size=2,
            page_token=token,
        )
        assert len(page["users"]) <= 2
        found += [user["email"] for user in page["users"]]
        token = page["next_page_token"]
        if not token:
            break
    assert found == emails


async def test_several_users_at_once_in_the_order_asked(site: Site, ann: Person, bob: Person) -> None:
    """USER-1: who is not there is left out."""
    answer = await ann.call("UserService.BatchGetUsers", users=[bob.id, "user_nobody", ann.id])
    assert [user["id"] for user in answer["users"]] == [bob.id, ann.id]
    answer = await ann.call("UserService.BatchGetUsers", emails=[ann.email.upper()])
    assert [user["id"] for user in answer["users"]] == [ann.id]


async def test_an_unknown_user_is_not_found(site: Site, ann: Person) -> None:
    """USER-1."""
    error = await ann.refused("UserService.GetUser", user="user_01j00000000000000000000000")
    assert (type(error), error.reason) == (NotFoundError, "USER_NOT_FOUND")


async def test_a_deactivated_user_is_out_within_five_seconds(site: Site, admin: Person, ann: Person) -> None:
    """AUTHN-4: measured from the answer to the first refusal; sign-in and refresh are refused too."""
    assert await ann.call("UserService.GetMe")
    user = await admin.call("UserService.DeactivateUser", user=ann.id)
    started = time.monotonic()
    assert user["state"] == "deactivated"

    async def out() -> bool:
        try:
            await ann.call("UserService.GetMe")
        except UnauthenticatedError:
            return True
        return False

    await eventually(out, "the end of the deactivated user's access", seconds=5)
    took = time.monotonic() - started
    print(f"deactivated user out after {took:.2f} s ({site.wire.name})")
    assert TTL < 5, "what is known of a token is kept for less than the promised time"
    login = await site.refused("AuthenticationService.Login", {"email": ann.email, "password": PASSWORD})
    refresh = await site.refused("AuthenticationService.Refresh", {"refresh_token": ann.refresh_token})
    assert isinstance(login, UnauthenticatedError)
    assert isinstance(refresh, UnauthenticatedError)


async def test_who_was_shut_out_is_let_in_again(site: Site, admin: Person) -> None:
    """USER-1, AUDIT-1: with the permission to shut out, and on record."""
    zed = await site.new_person("Zed")
    await admin.call("UserService.DeactivateUser", user=zed.id)
    user = await admin.call("UserService.ActivateUser", user=zed.id)
    assert user["state"] == "active"
    assert (await admin.call("UserService.GetUser", user=zed.id))["state"] == "active"
    assert await site.event(f'type == "user.activated" && target_id == "{zed.id}"')
    other = await site.new_person("Other")
    assert (await other.refused("UserService.ActivateUser", user=zed.id)).code == "PERMISSION_DENIED"


async def test_nobody_shuts_themselves_out(site: Site, admin: Person) -> None:
    """USER-1: somebody must be left to undo it."""
    error = await admin.refused("UserService.DeactivateUser", user=admin.id)
    assert (type(error), error.reason) == (FailedPreconditionError, "SELF_DEACTIVATION")
