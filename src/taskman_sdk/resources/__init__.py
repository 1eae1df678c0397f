# Generated from the contract by `python -m tools.protogen`. Do not edit.
"""All resources of the client."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskman_sdk.resources._base import Caller
    from taskman_sdk.resources.assignments import AsyncAssignments
    from taskman_sdk.resources.audit import AsyncAudit
    from taskman_sdk.resources.auth import AsyncAuth
    from taskman_sdk.resources.authz import AsyncAuthz
    from taskman_sdk.resources.deliveries import AsyncDeliveries
    from taskman_sdk.resources.notifications import AsyncNotifications
    from taskman_sdk.resources.permissions import AsyncPermissions
    from taskman_sdk.resources.policies import AsyncPolicies
    from taskman_sdk.resources.projects import AsyncProjects
    from taskman_sdk.resources.roles import AsyncRoles
    from taskman_sdk.resources.tasks import AsyncTasks
    from taskman_sdk.resources.users import AsyncUsers
    from taskman_sdk.resources.webhooks import AsyncWebhooks

__all__ = ["AsyncResources"]


class AsyncResources:
    """One attribute a resource, each loaded when it is first used."""

    _caller: Caller

    @cached_property
    def assignments(self) -> AsyncAssignments:
        """The verbs of `assignments`."""
        from taskman_sdk.resources.assignments import AsyncAssignments

        return AsyncAssignments(self._caller)

    @cached_property
    def audit(self) -> AsyncAudit:
        """The verbs of `audit`."""
        from taskman_sdk.resources.audit import AsyncAudit

        return AsyncAudit(self._caller)

    @cached_property
    def auth(self) -> AsyncAuth:
        """The verbs of `auth`."""
        from taskman_sdk.resources.auth import AsyncAuth

        return AsyncAuth(self._caller)

    @cached_property
    def authz(self) -> AsyncAuthz:
        """The verbs of `authz`."""
        from taskman_sdk.resources.authz import AsyncAuthz

        return AsyncAuthz(self._caller)

    @cached_property
    def deliveries(self) -> AsyncDeliveries:
        """The verbs of `deliveries`."""
        from taskman_sdk.resources.deliveries import AsyncDeliveries

        return AsyncDeliveries(self._caller)

    @cached_property
    def notifications(self) -> AsyncNotifications:
        """The verbs of `notifications`."""
        from taskman_sdk.resources.notifications import AsyncNotifications

        return AsyncNotifications(self._caller)

    @cached_property
    def permissions(self) -> AsyncPermissions:
        """The verbs of `permissions`."""
        from taskman_sdk.resources.permissions import AsyncPermissions

        return AsyncPermissions(self._caller)

    @cached_property
    def policies(self) -> AsyncPolicies:
        """The verbs of `policies`."""
        from taskman_sdk.resources.policies import AsyncPolicies

        return AsyncPolicies(self._caller)

    @cached_property
    def projects(self) -> AsyncProjects:
        """The verbs of `projects`."""
        from taskman_sdk.resources.projects import AsyncProjects

        return AsyncProjects(self._caller)

    @cached_property
    def roles(self) -> AsyncRoles:
        """The verbs of `roles`."""
        from taskman_sdk.resources.roles import AsyncRoles

        return AsyncRoles(self._caller)

    @cached_property
    def tasks(self) -> AsyncTasks:
        """The verbs of `tasks`."""
        from taskman_sdk.resources.tasks import AsyncTasks

        return AsyncTasks(self._caller)

    @cached_property
    def users(self) -> AsyncUsers:
        """The verbs of `users`."""
        from taskman_sdk.resources.users import AsyncUsers

        return AsyncUsers(self._caller)

    @cached_property
    def webhooks(self) -> AsyncWebhooks:
        """The verbs of `webhooks`."""
        from taskman_sdk.resources.webhooks import AsyncWebhooks

        return AsyncWebhooks(self._caller)
