"""The errors of TaskMan: one tree for server and client, and one table for every wire.

    TaskManError
    ├── InvalidArgumentError      400  INVALID_ARGUMENT     a field is wrong; see `field_violations`
    ├── OutOfRangeError           400  OUT_OF_RANGE
    ├── UnauthenticatedError      401  UNAUTHENTICATED      no token, or one that is not good
    ├── PermissionDeniedError     403  PERMISSION_DENIED    a permission is missing
    ├── NotFoundError             404  NOT_FOUND            not there, or not for the caller to know
    ├── AlreadyExistsError        409  ALREADY_EXISTS
    ├── AbortedError              409  ABORTED              somebody else was faster (412 for an etag)
    ├── FailedPreconditionError   400  FAILED_PRECONDITION  not in this state
    ├── ResourceExhaustedError    429  RESOURCE_EXHAUSTED   see `retry_after`
    ├── CancelledError            499  CANCELLED
    ├── UnimplementedError        501  UNIMPLEMENTED
    ├── UnavailableError          503  UNAVAILABLE          try again
    ├── DeadlineExceededError     504  DEADLINE_EXCEEDED
    ├── InternalError             500  INTERNAL
    ├── DataLossError             500  DATA_LOSS
    └── UnknownError              500  UNKNOWN

Sources: google.rpc.Code, google.rpc.error_details, RFC 9457 (problem details), SDK-4, GATE-1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

__all__ = [
    "DOMAIN", "AbortedError", "AlreadyExistsError", "CancelledError", "DataLossError", "DeadlineExceededError",
    "FailedPreconditionError", "FieldViolation", "InternalError", "InvalidArgumentError", "NotFoundError",
    "OutOfRangeError", "PermissionDeniedError", "ResourceExhaustedError", "TaskManError", "UnauthenticatedError",
    "UnavailableError", "UnimplementedError", "UnknownError", "error_class", "error_class_for_number",
]  # fmt: skip

DOMAIN: Final = "taskman"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field of the request that is wrong.

    Attributes:
        field: its path in the request, for example `task.labels[2]`.
        description: what is wrong and what is wanted.
        reason: the rule in a word, for example `string.max_len`.
    """

    field: str
    description: str
    reason: str = ""


class TaskManError(Exception):
    """The root of the tree.

    Attributes:
        message: what was wrong, where, and what to do, for a person.
        reason: the same for a program, for example `TASK_TRANSITION_NOT_ALLOWED`; stable.
        metadata: details for a program, for example the legal states.
        field_violations: the fields that are wrong.
        retry_after: seconds after which another attempt makes sense, where the server said so.
        request_id: the request's id in logs and audit records.
        attempts: how many attempts the client made.
    """

    code: ClassVar[str] = "UNKNOWN"
    number: ClassVar[int] = 2
    status: ClassVar[int] = 500

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        field_violations: Sequence[FieldViolation] = (),
        retry_after: float | None = None,
        request_id: str = "",
        attempts: int = 1,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.code
        self.metadata = dict(metadata or {})
        self.field_violations = tuple(field_violations)
        self.retry_after = retry_after
        self.request_id = request_id
        self.attempts = attempts

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, {k: v for k, v in vars(self).items() if k != "message"})

    def __str__(self) -> str:
        fields = "".join(f"\n  {v.field}: {v.description}" for v in self.field_violations)
        return f"{self.message}{fields}"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    __hash__ = Exception.__hash__

    @property
    def http_status(self) -> int:
        """The HTTP status of this error (google.rpc.Code's mapping; RFC 9110 where a reason says it better)."""
        return _STATUS_OF_REASON.get(self.reason, self.status)


def _rebuild(kind: type[TaskManError], message: str, state: dict[str, Any]) -> TaskManError:
    error = kind(message)
    error.__dict__.update(state)
    return error


class CancelledError(TaskManError):
    """The caller gave up."""

    code, number, status = "CANCELLED", 1, 499


class UnknownError(TaskManError):
    """A server answered something that says nothing more."""


class InvalidArgumentError(TaskManError):
    """A field of the request is wrong, whatever state the system is in."""

    code, number, status = "INVALID_ARGUMENT", 3, 400


class DeadlineExceededError(TaskManError):
    """The time for the call ran out; it may have taken effect."""

    code, number, status = "DEADLINE_EXCEEDED", 4, 504


class NotFoundError(TaskManError):
    """The thing is not there, or not for the caller to know about."""

    code, number, status = "NOT_FOUND", 5, 404


class AlreadyExistsError(TaskManError):
    """Something with that name is there already."""

    code, number, status = "ALREADY_EXISTS", 6, 409


class PermissionDeniedError(TaskManError):
    """The caller is known and may not do this."""

    code, number, status = "PERMISSION_DENIED", 7, 403


class ResourceExhaustedError(TaskManError):
    """Too many requests, or too much of something."""

    code, number, status = "RESOURCE_EXHAUSTED", 8, 429


class FailedPreconditionError(TaskManError):
    """The system is not in the state that the call needs."""

    code, number, status = "FAILED_PRECONDITION", 9, 400


class AbortedError(TaskManError):
    """Somebody else changed the thing in between; read it again and decide anew."""

    code, number, status = "ABORTED", 10, 409


class OutOfRangeError(TaskManError):
    """A value is past the end."""

    code, number, status = "OUT_OF_RANGE", 11, 400


class UnimplementedError(TaskManError):
    """The server has no such call."""

    code, number, status = "UNIMPLEMENTED", 12, 501


class InternalError(TaskManError):
    """A fault of the server; the request id finds it in the log."""

    code, number, status = "INTERNAL", 13, 500


class UnavailableError(TaskManError):
    """The server, or something it needs, does not answer; try again."""

    code, number, status = "UNAVAILABLE", 14, 503


class DataLossError(TaskManError):
    """Data is damaged beyond repair."""

    code, number, status = "DATA_LOSS", 15, 500


class UnauthenticatedError(TaskManError):
    """No credentials, or ones that are not good."""

    code, number, status = "UNAUTHENTICATED", 16, 401


_CLASSES: Final[tuple[type[TaskManError], ...]] = (
    CancelledError, UnknownError, InvalidArgumentError, DeadlineExceededError, NotFoundError, AlreadyExistsError,
    PermissionDeniedError, ResourceExhaustedError, FailedPreconditionError, AbortedError, OutOfRangeError,
    UnimplementedError, InternalError, UnavailableError, DataLossError, UnauthenticatedError,
)  # fmt: skip
_BY_CODE: Final = {kind.code: kind for kind in _CLASSES}
_BY_NUMBER: Final = {kind.number: kind for kind in _CLASSES}
_BY_STATUS: Final = {
    400: InvalidArgumentError, 401: UnauthenticatedError, 403: PermissionDeniedError, 404: NotFoundError,
    405: UnimplementedError, 408: DeadlineExceededError, 409: AbortedError, 412: AbortedError,
    413: InvalidArgumentError, 415: InvalidArgumentError, 422: InvalidArgumentError,
    429: ResourceExhaustedError, 499: CancelledError,
    500: InternalError, 501: UnimplementedError, 502: UnavailableError, 503: UnavailableError,
    504: DeadlineExceededError,
}  # fmt: skip
# Where HTTP has a status of its own for what is one canonical code.
_STATUS_OF_REASON: Final = {
    "ETAG_MISMATCH": 412,
    "IDEMPOTENCY_KEY_REUSED": 422,
    "REQUEST_TOO_LARGE": 413,
    "MEDIA_TYPE_NOT_SUPPORTED": 415,
    "METHOD_NOT_ALLOWED": 405,
    "REQUEST_URI_TOO_LONG": 414,
    "REQUEST_HEADERS_TOO_LARGE": 431,
    "REQUEST_TIMEOUT": 408,
}


def error_class(code: str, http_status: int = 500) -> type[TaskManError]:
    """The class of a canonical code's name; of the HTTP status where the code is not known."""
    return _BY_CODE.get(code) or _BY_STATUS.get(http_status, UnknownError)


def error_class_for_number(number: int) -> type[TaskManError]:
    """The class of a canonical code's number, as gRPC carries it."""
    return _BY_NUMBER.get(number, UnknownError)
