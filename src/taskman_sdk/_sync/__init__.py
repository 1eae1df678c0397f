# Generated from the contract by `python -m tools.protogen`. Do not edit.
"""All resources of the client."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskman_sdk._sync._base import Owner
    from taskman_sdk._sync.assignments import Assignments
    from taskman_sdk._sync.audit import Audit
    from taskman_sdk._sync.auth import Auth
    from taskman_sdk._sync.authz import Authz
    from taskman_sdk._sync.deliveries import Deliveries
    from taskman_sdk._sync.notifications import Notifications
    from taskman_sdk._sync.permissions import Permissions
    from taskman_sdk._sync.policies import Policies
    from taskman_sdk._sync.projects import Projects
    from taskman_sdk._sync.roles import Roles
    from taskman_sdk._sync.tasks import Tasks
    from taskman_sdk._sync.users import Users
    from taskman_sdk._sync.webhooks import Webhooks

__all__ = ["Resources"]


class Resources:
    """One attribute a resource, each loaded when it is first used."""

    _owner: Owner

    @cached_property
    def assignments(self) -> Assignments:
        """The verbs of `assignments`."""
        from taskman_sdk._sync.assignments import Assignments

        return Assignments(self._owner, "assignments")

    @cached_property
    def audit(self) -> Audit:
        """The verbs of `audit`."""
        from taskman_sdk._sync.audit import Audit

        return Audit(self._owner, "audit")

    @cached_property
    def auth(self) -> Auth:
        """The verbs of `auth`."""
        from taskman_sdk._sync.auth import Auth

        return Auth(self._owner, "auth")

    @cached_property
    def authz(self) -> Authz:
        """The verbs of `authz`."""
        from taskman_sdk._sync.authz import Authz

        return Authz(self._owner, "authz")

    @cached_property
    def deliveries(self) -> Deliveries:
        """The verbs of `deliveries`."""
        from taskman_sdk._sync.deliveries import Deliveries

        return Deliveries(self._owner, "deliveries")

    @cached_property
    def notifications(self) -> Notifications:
        """The verbs of `notifications`."""
        from taskman_sdk._sync.notifications import Notifications

        return Notifications(self._owner, "notifications")

    @cached_property
    def permissions(self) -> Permissions:
        """The verbs of `permissions`."""
        from taskman_sdk._sync.permissions import Permissions

        return Permissions(self._owner, "permissions")

    @cached_property
    def policies(self) -> Policies:
        """The verbs of `policies`."""
        from taskman_sdk._sync.policies import Policies

        return Policies(self._owner, "policies")

    @cached_property
    def projects(self) -> Projects:
        """The verbs of `projects`."""
        from taskman_sdk._sync.projects import Projects

        return Projects(self._owner, "projects")

    @cached_property
    def roles(self) -> Roles:
        """The verbs of `roles`."""
        from taskman_sdk._sync.roles import Roles

        return Roles(self._owner, "roles")

    @cached_property
    def tasks(self) -> Tasks:
        """The verbs of `tasks`."""
        from taskman_sdk._sync.tasks import Tasks

        return Tasks(self._owner, "tasks")

    @cached_property
    def users(self) -> Users:
        """The verbs of `users`."""
        from taskman_sdk._sync.users import Users

        return Users(self._owner, "users")

    @cached_property
    def webhooks(self) -> Webhooks:
        """The verbs of `webhooks`."""
        from taskman_sdk._sync.webhooks import Webhooks

        return Webhooks(self._owner, "webhooks")
