"""Policies."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from taskman_sdk.errors import AlreadyExistsError
from taskman_sdk.proto.taskman.iam.v1.iam_pb import (
    CreatePolicyRequest,
    DeletePolicyRequest,
    DeletePolicyResponse,
    Effect,
    GetPolicyRequest,
    ListPoliciesRequest,
    ListPoliciesResponse,
    Policy,
    PolicyEvent,
    UpdatePolicyRequest,
)
from taskman_server.kit import filters
from taskman_server.kit.cel import STRING, Environment
from taskman_server.kit.db import Transaction, UniqueViolation
from taskman_server.kit.ids import new_id
from taskman_server.kit.masks import changed_paths
from taskman_server.kit.rpc import Call
from taskman_server.kit.rpc.call import not_found, precondition
from taskman_server.services.iam import defaults, rules
from taskman_server.services.iam.convert import effect_name, policy_of, resource_of
from taskman_server.services.iam.handlers.base import Base, Listing
from taskman_server.services.iam.store import POLICIES, columns_of

__all__ = ["PolicyHandlers"]

MUTABLE: Final = ("name", "description", "effect", "roles", "permissions", "condition")
PLAIN: Final = ("id", "name", "description", "roles", "permissions", "condition", "system")

LISTING: Final = Listing(
    table=POLICIES,
    environment=Environment({**filters.list_environment(Policy).variables, "effect": STRING}),
    columns=columns_of(POLICIES),
    resource={"resource.id": POLICIES.c.id, "resource.name": POLICIES.c.name, "resource.principal": sa.literal("")},
    system=defaults.POLICIES,
    message_of=policy_of,
    values_of=lambda policy: {
        **{name: getattr(policy, name) for name in PLAIN},
        "effect": effect_name(policy.effect),
        # they were never made, so they have no time
        "create_time": None,
        "update_time": None,
    },
    resource_of=resource_of,
)


class PolicyHandlers(Base):
    """The RPCs about policies."""

    async def create_policy(self, request: CreatePolicyRequest, call: Call) -> Policy:
        """See the contract."""
        assert request.policy is not None
        policy = _merged(Policy(id=new_id("policy")), request.policy, MUTABLE)
        await call.authorize({**resource_of(policy), "id": ""})
        _check(policy)
        await self._check_author(call, None, policy)
        organization = call.principal.organization
        tx = await call.begin()
        await self.store.lock(tx, organization)
        await self._check_fits(tx, organization, policy)
        now = call.now
        try:
            await self.store.add(
                POLICIES,
                tx,
                id=policy.id,
                organization=organization,
                name=policy.name,
                description=policy.description,
                effect=effect_name(policy.effect),
                roles=policy.roles,
                permissions=policy.permissions,
                condition=policy.condition,
                revision=1,
                create_time=now,
                update_time=now,
            )
        except UniqueViolation:
            raise _taken(policy.name) from None
        return await self._changed_policy(tx, call, "iam.policy.created", policy.id)

    async def get_policy(self, request: GetPolicyRequest, call: Call) -> Policy:
        """See the contract."""
        policy = await self._policy(request.policy, call)
        hidden = not_found("policy", request.policy)
        await call.authorize(resource_of(policy), hidden=hidden, read_permission="policies.read")
        return policy

    async def update_policy(self, request: UpdatePolicyRequest, call: Call) -> Policy:
        """See the contract."""
        assert request.policy is not None
        wanted = request.policy
        seen = await self._own_policy(wanted.id, call, "change")
        paths = changed_paths(wanted, request.update_mask, MUTABLE, "policy")
        planned = _merged(seen, wanted, paths)
        _check(planned)
        if set(paths) - {"name", "description"}:
            await self._check_author(call, seen, planned)
        organization = call.principal.organization
        tx = await call.begin()
        await self.store.lock(tx, organization)
        row = await self.store.get(POLICIES, organization, wanted.id, tx)
        if row is None:
            raise not_found("policy", wanted.id)
        before = policy_of(row)
        call.check_etag(wanted.etag or seen.etag, before.etag, f"The policy {before.name!r}")
        after = _merged(before, wanted, paths)
        if after == before:
            return before
        await self._check_fits(tx, organization, after)
        try:
            await self.store.change(
                POLICIES,
                tx,
                organization,
                row.id,
                name=after.name,
                description=after.description,
                effect=effect_name(after.effect),
                roles=after.roles,
                permissions=after.permissions,
                condition=after.condition,
                revision=row.revision + 1,
                update_time=call.now,
            )
        except UniqueViolation:
            raise _taken(after.name) from None
        return await self._changed_policy(tx, call, "iam.policy.updated", row.id, before)

    async def delete_policy(self, request: DeletePolicyRequest, call: Call) -> DeletePolicyResponse:
        """See the contract."""
        seen = await self._own_policy(request.policy, call, "delete")
        await self._check_may_give(call, rules.given_by_policy(seen, None), f"Deleting the policy {seen.name!r}")
        organization = call.principal.organization
        tx = await call.begin()
        await self.store.lock(tx, organization)
        row = await self.store.get(POLICIES, organization, request.policy, tx)
        if row is None:
            raise not_found("policy", request.policy)
        policy = policy_of(row)
        call.check_etag(request.etag or seen.etag, policy.etag, f"The policy {policy.name!r}")
        await self.store.drop(POLICIES, tx, organization, row.id)
        version = await self.store.count_up(tx, organization)
        payload = PolicyEvent(policy=policy, before=policy, version=version)
        await call.emit(tx, "iam.policy.deleted", payload, subject=policy.id)
        return DeletePolicyResponse()

    async def list_policies(self, request: ListPoliciesRequest, call: Call) -> ListPoliciesResponse:
        """See the contract."""
        policies, token = await self._list(LISTING, request, call)
        return ListPoliciesResponse(policies=policies, next_page_token=token)

    async def _policy(self, key: str, call: Call) -> Policy:
        policy = defaults.system_policy(key)
        if policy is not None:
            return policy
        row = await self.store.get(POLICIES, call.principal.organization, key)
        if row is None:
            raise not_found("policy", key)
        return policy_of(row)

    async def _own_policy(self, key: str, call: Call, verb: str) -> Policy:
        policy = await self._policy(key, call)
        await call.authorize(resource_of(policy), hidden=not_found("policy", key), read_permission="policies.read")
        if policy.system:
            raise precondition(
                f"The policy {policy.name!r} ships with the system; nobody can {verb} it. Create one of your own: "
                "a policy that denies wins over every one that allows.",
                "SYSTEM_POLICY",
                policy=policy.name,
            )
        return policy

    async def _check_author(self, call: Call, before: Policy | None, after: Policy) -> None:
        verb = "denies" if after.effect is Effect.DENY else "gives"
        await self._check_may_give(call, rules.given_by_policy(before, after), f"The policy {after.name!r}", verb)
        by_admin = call.principal.type == "service" or await self._is_admin(call)
        rules.check_may_deny(before, after, by_admin)

    async def _check_fits(self, tx: Transaction, organization: str, policy: Policy) -> None:
        """What depends on the organization's other roles and policies, read inside the transaction."""
        rules.check_roles_exist(policy.roles, await self._role_names(organization, tx), "policy.roles")
        others = [each for each in await self._policies(organization, tx) if each.id != policy.id]
        rules.check_fits_together(policy, others)

    async def _changed_policy(
        self, tx: Transaction, call: Call, event: str, key: str, before: Policy | None = None
    ) -> Policy:
        organization = call.principal.organization
        row = await self.store.get(POLICIES, organization, key, tx)
        assert row is not None
        policy = policy_of(row)
        version = await self.store.count_up(tx, organization)
        await call.emit(tx, event, PolicyEvent(policy=policy, before=before, version=version), subject=key)
        return policy


def _merged(before: Policy, wanted: Policy, paths: tuple[str, ...] | list[str]) -> Policy:
    def source(name: str) -> Policy:
        return wanted if name in paths else before

    return Policy(
        id=before.id,
        name=source("name").name,
        description=source("description").description,
        effect=source("effect").effect,
        roles=list(dict.fromkeys(source("roles").roles)),
        permissions=list(dict.fromkeys(source("permissions").permissions)),
        condition=source("condition").condition,
        create_time=before.create_time,
        update_time=before.update_time,
        etag=before.etag,
    )


def _check(policy: Policy) -> None:
    if not policy.name:
        raise rules.invalid("policy.name", "a policy needs a name, for example `office-hours`", "FIELD_REQUIRED")
    if defaults.system_policy(policy.name) is not None:
        raise _taken(policy.name)
    if policy.effect is Effect.UNSPECIFIED:
        raise rules.invalid("policy.effect", "say EFFECT_ALLOW or EFFECT_DENY", "FIELD_REQUIRED")
    if not policy.permissions:
        raise rules.invalid("policy.permissions", "name at least one, for example `tasks.update`", "FIELD_REQUIRED")
    rules.check_permissions(policy.permissions, "policy.permissions")
    rules.check_condition(policy)
    rules.check_no_lockout(policy)


def _taken(name: str) -> AlreadyExistsError:
    return AlreadyExistsError(
        f"There is a policy {name!r} already. Choose another name, or change that one.",
        reason="POLICY_NAME_TAKEN",
        metadata={"name": name},
    )
