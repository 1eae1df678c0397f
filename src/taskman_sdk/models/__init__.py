# Generated from the contract by `python -m tools.protogen`. Do not edit.
"""The models of all areas; each is loaded when it is first asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from taskman_sdk.models._base import Model

if TYPE_CHECKING:
    from taskman_sdk.models.audit import AuditEvent, AuditTarget, ListEventsResponse, VerifyEventsResponse
    from taskman_sdk.models.authentication import (
        ChangePasswordResponse,
        Jwk,
        Jwks,
        LogoutResponse,
        RegisterResponse,
        RequestPasswordResetResponse,
        ResetPasswordResponse,
        SetUpResponse,
        TokenResponse,
    )
    from taskman_sdk.models.authorization import CheckResponse, PlanKind, PlanResourcesResponse
    from taskman_sdk.models.iam import (
        Assignment,
        DeleteAssignmentResponse,
        DeletePolicyResponse,
        DeleteRoleResponse,
        Effect,
        ListAssignmentsResponse,
        ListPermissionsResponse,
        ListPoliciesResponse,
        ListRolesResponse,
        Permission,
        Policy,
        Role,
    )
    from taskman_sdk.models.notification import (
        DeleteWebhookResponse,
        Delivery,
        DeliveryAttempt,
        ListDeliveriesResponse,
        ListNotificationsResponse,
        ListWebhooksResponse,
        Notification,
        Webhook,
    )
    from taskman_sdk.models.task import (
        ExportTasksResponse,
        ImportResult,
        ImportTasksResponse,
        ListProjectsResponse,
        ListTasksResponse,
        Project,
        ProjectMember,
        SearchTasksResponse,
        Task,
    )
    from taskman_sdk.models.user import BatchGetUsersResponse, ListUsersResponse, User

__all__ = [
    "Assignment",
    "AuditEvent",
    "AuditTarget",
    "BatchGetUsersResponse",
    "ChangePasswordResponse",
    "CheckResponse",
    "DeleteAssignmentResponse",
    "DeletePolicyResponse",
    "DeleteRoleResponse",
    "DeleteWebhookResponse",
    "Delivery",
    "DeliveryAttempt",
    "Effect",
    "ExportTasksResponse",
    "ImportResult",
    "ImportTasksResponse",
    "Jwk",
    "Jwks",
    "ListAssignmentsResponse",
    "ListDeliveriesResponse",
    "ListEventsResponse",
    "ListNotificationsResponse",
    "ListPermissionsResponse",
    "ListPoliciesResponse",
    "ListProjectsResponse",
    "ListRolesResponse",
    "ListTasksResponse",
    "ListUsersResponse",
    "ListWebhooksResponse",
    "LogoutResponse",
    "Model",
    "Notification",
    "Permission",
    "PlanKind",
    "PlanResourcesResponse",
    "Policy",
    "Project",
    "ProjectMember",
    "RegisterResponse",
    "RequestPasswordResetResponse",
    "ResetPasswordResponse",
    "Role",
    "SearchTasksResponse",
    "SetUpResponse",
    "Task",
    "TokenResponse",
    "User",
    "VerifyEventsResponse",
    "Webhook",
]
_AREAS = {
    "Assignment": "iam",
    "AuditEvent": "audit",
    "AuditTarget": "audit",
    "BatchGetUsersResponse": "user",
    "ChangePasswordResponse": "authentication",
    "CheckResponse": "authorization",
    "DeleteAssignmentResponse": "iam",
    "DeletePolicyResponse": "iam",
    "DeleteRoleResponse": "iam",
    "DeleteWebhookResponse": "notification",
    "Delivery": "notification",
    "DeliveryAttempt": "notification",
    "Effect": "iam",
    "ExportTasksResponse": "task",
    "ImportResult": "task",
    "ImportTasksResponse": "task",
    "Jwk": "authentication",
    "Jwks": "authentication",
    "ListAssignmentsResponse": "iam",
    "ListDeliveriesResponse": "notification",
    "ListEventsResponse": "audit",
    "ListNotificationsResponse": "notification",
    "ListPermissionsResponse": "iam",
    "ListPoliciesResponse": "iam",
    "ListProjectsResponse": "task",
    "ListRolesResponse": "iam",
    "ListTasksResponse": "task",
    "ListUsersResponse": "user",
    "ListWebhooksResponse": "notification",
    "LogoutResponse": "authentication",
    "Notification": "notification",
    "Permission": "iam",
    "PlanKind": "authorization",
    "PlanResourcesResponse": "authorization",
    "Policy": "iam",
    "Project": "task",
    "ProjectMember": "task",
    "RegisterResponse": "authentication",
    "RequestPasswordResetResponse": "authentication",
    "ResetPasswordResponse": "authentication",
    "Role": "iam",
    "SearchTasksResponse": "task",
    "SetUpResponse": "authentication",
    "Task": "task",
    "TokenResponse": "authentication",
    "User": "user",
    "VerifyEventsResponse": "audit",
    "Webhook": "notification",
}


def __getattr__(name: str) -> Any:
    if (area := _AREAS.get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{area}"), name)
