"""Client library of TaskMan.

    from taskman_sdk import TaskMan

    with TaskMan("https://tasks.example", token="…") as client:
        task = client.tasks.create(project="WEB", title="Fix the login page", labels=["fix"])
        for task in client.tasks.list(filter='"fix" in labels && state == "todo"'):
            print(task.key, task.title)

`AsyncTaskMan` is the same for asyncio. Everything is loaded when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from taskman_sdk._version import __version__

if TYPE_CHECKING:
    from taskman_sdk import models as models
    from taskman_sdk._sync.client import TaskMan
    from taskman_sdk.client import AsyncTaskMan
    from taskman_sdk.credentials import Credentials
    from taskman_sdk.errors import (
        AbortedError,
        AlreadyExistsError,
        CancelledError,
        DataLossError,
        DeadlineExceededError,
        FailedPreconditionError,
        FieldViolation,
        InternalError,
        InvalidArgumentError,
        NotFoundError,
        OutOfRangeError,
        PermissionDeniedError,
        ResourceExhaustedError,
        TaskManError,
        UnauthenticatedError,
        UnavailableError,
        UnimplementedError,
        UnknownError,
    )
    from taskman_sdk.resilience import RetryPolicy
    from taskman_sdk.resources._base import NOT_GIVEN, NotGiven
    from taskman_sdk.resources._pages import AsyncPager, Pager
    from taskman_sdk.transports import Transport
    from taskman_sdk.transports.grpc import GrpcTransport
    from taskman_sdk.transports.http import HttpTransport
    from taskman_sdk.transports.local import LocalTransport

__all__ = [
    "NOT_GIVEN",
    "AbortedError",
    "AlreadyExistsError",
    "AsyncPager",
    "AsyncTaskMan",
    "CancelledError",
    "Credentials",
    "DataLossError",
    "DeadlineExceededError",
    "FailedPreconditionError",
    "FieldViolation",
    "GrpcTransport",
    "HttpTransport",
    "InternalError",
    "InvalidArgumentError",
    "LocalTransport",
    "NotFoundError",
    "NotGiven",
    "OutOfRangeError",
    "Pager",
    "PermissionDeniedError",
    "ResourceExhaustedError",
    "RetryPolicy",
    "TaskMan",
    "TaskManError",
    "Transport",
    "UnauthenticatedError",
    "UnavailableError",
    "UnimplementedError",
    "UnknownError",
    "__version__",
    "models",
]

_HOMES = {
    "AsyncPager": "resources._pages",
    "AsyncTaskMan": "client",
    "Credentials": "credentials",
    "GrpcTransport": "transports.grpc",
    "HttpTransport": "transports.http",
    "LocalTransport": "transports.local",
    "NOT_GIVEN": "resources._base",
    "NotGiven": "resources._base",
    "Pager": "resources._pages",
    "RetryPolicy": "resilience",
    "TaskMan": "_sync.client",
    "Transport": "transports",
}


def __getattr__(name: str) -> Any:
    if name == "models":
        return import_module("taskman_sdk.models")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"taskman_sdk.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
