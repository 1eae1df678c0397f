"""One function for each RPC of `IamAdminService`."""

from __future__ import annotations

from taskman_server.services.iam.handlers.assignments import AssignmentHandlers
from taskman_server.services.iam.handlers.policies import PolicyHandlers
from taskman_server.services.iam.handlers.roles import RoleHandlers

__all__ = ["IamHandlers"]


class IamHandlers(RoleHandlers, PolicyHandlers, AssignmentHandlers):
    """Roles, policies, assignments."""
