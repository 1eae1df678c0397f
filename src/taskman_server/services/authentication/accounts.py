"""Making an account across services: the person in Users, the rights in IAM, the password here alone."""

from __future__ import annotations

from taskman_sdk.errors import TaskManError
from taskman_sdk.proto.taskman.iam.v1.iam_pb import ProvisionPrincipalRequest, ProvisionPrincipalResponse
from taskman_sdk.proto.taskman.user.v1.user_pb import ProvisionUserRequest, ProvisionUserResponse
from taskman_server.kit.rpc import Context
from taskman_server.services.authentication.store import AuthenticationStore

__all__ = ["create_account", "grant_role", "try_grant_role"]


async def create_account(
    context: Context,
    store: AuthenticationStore,
    *,
    registration: str,
    email: str,
    display_name: str,
    password_hash: str,
    role: str,
) -> ProvisionUserResponse:
    """Makes a user with a password and a role; the organization is the context's, or the Users service's choice.

    The password waits here as a pending registration until the user exists. If we are killed in between, the
    `user.created` event finds the registration and gives the user its password (EVENT-1); the same call again with
    the same registration goes on where it stopped.

    Returns:
        The user; `created` is false when the address has another account, and then nothing was changed.

    Raises:
        TaskManError: a peer does not answer; the same call may be made again.
    """
    now = context.now
    await store.add_registration(registration, email, password_hash, now)
    answer = await context.peer(
        "UserService.ProvisionUser",
        ProvisionUserRequest(email=email, display_name=display_name, registration=registration, default_role=role),
        ProvisionUserResponse,
    )
    assert answer.user is not None
    user, organization = answer.user.id, answer.organization
    async with context.runtime.db.transaction() as tx:
        if answer.created:
            await store.add_credential(
                tx, user=user, organization=organization, email=email, password_hash=password_hash, now=now
            )
        await store.delete_registration(tx, registration)
    return answer


async def grant_role(context: Context, user: str, organization: str, role: str) -> None:
    """Gives the user its first role now; without this it comes with the `user.created` event a moment later.

    Raises:
        TaskManError: the IAM service does not answer.
    """
    await context.peer(
        "IamAdminService.ProvisionPrincipal",
        ProvisionPrincipalRequest(principal=user, organization=organization, role=role),
        ProvisionPrincipalResponse,
    )


async def try_grant_role(context: Context, user: str, organization: str, role: str) -> bool:
    """The same, where the event may as well do it; whether it is done."""
    try:
        await grant_role(context, user, organization, role)
    except TaskManError:
        return False
    return True
