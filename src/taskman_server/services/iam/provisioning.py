"""The first role of a new principal: given once, however often and in whatever way it is asked (USER-1, EVENT-1)."""

from __future__ import annotations

from taskman_sdk.proto.taskman.iam.v1.iam_pb import Assignment, AssignmentEvent
from taskman_server.kit.db import Transaction
from taskman_server.kit.ids import new_id
from taskman_server.kit.rpc.call import Context
from taskman_server.services.iam.convert import assignment_of
from taskman_server.services.iam.store import ASSIGNMENTS, IamStore

__all__ = ["provision", "provisioned"]


async def provisioned(
    store: IamStore, tx: Transaction, organization: str, principal: str
) -> tuple[bool, Assignment | None]:
    """Whether the principal was given its first role, and the assignment unless that was taken away again."""
    key = await store.provision(organization, principal, tx)
    if key is None:
        return False, None
    row = await store.get(ASSIGNMENTS, organization, key, tx)
    return True, None if row is None else assignment_of(row)


async def provision(
    store: IamStore, context: Context, tx: Transaction, organization: str, principal: str, role: str
) -> Assignment | None:
    """Gives the principal the role, unless it was given a first one before.

    Args:
        store: where.
        context: on whose behalf.
        tx: the transaction of the effect, which has locked the organization (`IamStore.lock`).
        organization: the tenant.
        principal: who is new.
        role: the name of a role that exists.

    Returns:
        The first assignment; None when it was taken away since.
    """
    done, assignment = await provisioned(store, tx, organization, principal)
    if done:
        return assignment
    held = [row for row in await store.assignments_of(organization, principal, tx) if row.role == role]
    if held:
        await store.add_provision(tx, organization, principal, held[0].id)
        return assignment_of(held[0])
    key = new_id("assignment")
    await store.add_provision(tx, organization, principal, key)
    await store.add(
        ASSIGNMENTS,
        tx,
        id=key,
        organization=organization,
        principal=principal,
        role=role,
        expire_time=None,
        create_time=context.now,
    )
    row = await store.get(ASSIGNMENTS, organization, key, tx)
    assert row is not None
    made = assignment_of(row)
    version = await store.count_up(tx, organization)
    payload = AssignmentEvent(assignment=made, version=version)
    await context.emit(tx, "iam.assignment.created", payload, subject=key, organization=organization)
    return made
