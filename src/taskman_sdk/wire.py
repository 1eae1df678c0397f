"""Errors on the wire: `google.rpc.Status` for gRPC, problem details (RFC 9457) for REST. Both ways, nothing lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from protobuf.wkt.google.protobuf.any_pb import Any as AnyMessage
from protobuf.wkt.google.protobuf.duration_pb import Duration

from taskman_sdk.errors import DOMAIN, FieldViolation, TaskManError, error_class, error_class_for_number
from taskman_sdk.proto.google.rpc.error_details_pb import BadRequest, ErrorInfo, RequestInfo, RetryInfo
from taskman_sdk.proto.google.rpc.status_pb import Status

__all__ = ["PROBLEM_TYPE", "from_problem", "from_status", "to_problem", "to_status"]

PROBLEM_TYPE: Final = "urn:taskman:error:"


def to_status(error: TaskManError) -> Status:
    """The error as gRPC carries it in `grpc-status-details-bin`."""
    info = ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=dict(error.metadata))
    details = [AnyMessage.pack(info)]
    if error.field_violations:
        violations = [
            BadRequest.FieldViolation(field=v.field, description=v.description, reason=v.reason)
            for v in error.field_violations
        ]
        details.append(AnyMessage.pack(BadRequest(field_violations=violations)))
    if error.retry_after is not None:
        seconds = int(error.retry_after)
        nanos = int((error.retry_after - seconds) * 1e9)
        details.append(AnyMessage.pack(RetryInfo(retry_delay=Duration(seconds=seconds, nanos=nanos))))
    if error.request_id:
        details.append(AnyMessage.pack(RequestInfo(request_id=error.request_id)))
    return Status(code=error.number, message=error.message, details=details)


def from_status(status: Status) -> TaskManError:
    """The error of a `google.rpc.Status`; details of unknown types are passed over."""
    error = error_class_for_number(status.code)(status.message)
    for detail in status.details:
        if (info := detail.unpack(ErrorInfo)) is not None:
            error.reason, error.metadata = info.reason, dict(info.metadata)
        elif (bad := detail.unpack(BadRequest)) is not None:
            error.field_violations = tuple(
                FieldViolation(v.field, v.description, v.reason) for v in bad.field_violations
            )
        elif (retry := detail.unpack(RetryInfo)) is not None and retry.retry_delay is not None:
            error.retry_after = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
        elif (request := detail.unpack(RequestInfo)) is not None:
            error.request_id = request.request_id
    return error


def to_problem(error: TaskManError) -> dict[str, Any]:
    """The error as a problem document: `type`, `title`, `status`, `detail` and our members beside them."""
    problem: dict[str, Any] = {
        "type": PROBLEM_TYPE + error.reason,
        "title": error.code.replace("_", " ").capitalize(),
        "status": error.http_status,
        "detail": error.message,
        "code": error.code,
        "reason": error.reason,
    }
    if error.field_violations:
        problem["errors"] = [
            {"field": v.field, "detail": v.description, "reason": v.reason} for v in error.field_violations
        ]
    if error.metadata:
        problem["metadata"] = error.metadata
    if error.retry_after is not None:
        problem["retry_after"] = error.retry_after
    if error.request_id:
        problem["request_id"] = error.request_id
    return problem


def from_problem(problem: Mapping[str, Any], http_status: int) -> TaskManError:
    """The error of a problem document, or of whatever else a proxy answered with that status."""
    kind = error_class(str(problem.get("code", "")), http_status)
    retry_after = problem.get("retry_after")
    return kind(
        str(problem.get("detail") or problem.get("title") or f"the server answered {http_status}"),
        reason=str(problem.get("reason", "")),
        metadata={str(k): str(v) for k, v in dict(problem.get("metadata") or {}).items()},
        field_violations=[
            FieldViolation(str(v.get("field", "")), str(v.get("detail", "")), str(v.get("reason", "")))
            for v in problem.get("errors") or ()
        ],
        retry_after=float(retry_after) if isinstance(retry_after, (int, float)) else None,
        request_id=str(problem.get("request_id", "")),
    )
