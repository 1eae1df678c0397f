"""What every async resource does: fields to message, call, message to model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, Protocol, TypeVar, final

from taskman_sdk import codec, contract
from taskman_sdk.errors import FieldViolation, InvalidArgumentError
from taskman_sdk.models._base import Model, parse, to_json_value
from taskman_sdk.resources._pages import AsyncPager

__all__ = ["NOT_GIVEN", "AsyncResource", "Caller", "NotGiven"]

M = TypeVar("M", bound=Model)
T = TypeVar("T", bound=Model)


@final
class NotGiven:
    """The type of `NOT_GIVEN`: an argument that was left out, where None means something."""

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "NOT_GIVEN"


NOT_GIVEN: Final = NotGiven()


class Caller(Protocol):
    """Makes calls, with credentials, deadline and retries; the client is one."""

    async def call(
        self,
        method: contract.Method,
        request: codec.Message[Any],
        *,
        idempotency_key: str | None,
        timeout: float | None,
        extra_headers: Mapping[str, str] | None,
    ) -> codec.Message[Any]:
        """Calls once, with whatever attempts that takes."""
        ...

    def stream(
        self,
        method: contract.Method,
        request: codec.Message[Any],
        *,
        idempotency_key: str | None,
        timeout: float | None,
        extra_headers: Mapping[str, str] | None,
    ) -> AsyncIterator[codec.Message[Any]]:
        """Calls, and yields each answer as it comes."""
        ...


def build(
    method: contract.Method, fields: Mapping[str, Any], changes: Mapping[str, Any] | None = None
) -> codec.Message[Any]:
    """The request message of flattened fields such as `task.title`.

    Args:
        method: the RPC.
        fields: values by path; those not given are left out.
        changes: the same for fields to change: those that are given make the `update_mask`. None clears a field.

    Raises:
        InvalidArgumentError: a value does not fit its field.
    """
    value: dict[str, Any] = {}
    given = {path: each for path, each in (changes or {}).items() if each is not NOT_GIVEN}
    body = method.route.body if method.route is not None and method.route.body != "*" else ""
    if body:
        value[body] = {}
    for path, each in (*fields.items(), *given.items()):
        if each is NOT_GIVEN or each is None:
            continue
        target = value
        *parents, leaf = path.split(".")
        for parent in parents:
            target = target.setdefault(parent, {})
        try:
            target[leaf] = to_json_value(each)
        except ValueError as error:
            raise _invalid(path, str(error)) from None
    message = _decode(method, value)
    if changes is not None:
        paths = [path.partition(".")[2] for path in given]
        message.update_mask = codec.FieldMask(paths=paths)
    return message


def _decode(method: contract.Method, value: Any) -> codec.Message[Any]:
    try:
        return codec.from_value(method.input, value)
    except codec.DecodeError as error:
        raise _invalid(error.field or "", str(error)) from None


def _invalid(field: str, description: str) -> InvalidArgumentError:
    violation = [FieldViolation(field, description)] if field else []
    return InvalidArgumentError(f"Not sent: {description}", field_violations=violation)


class AsyncResource:
    """The base of the generated resources."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def _unary(
        self,
        area: str,
        name: str,
        kind: type[M],
        fields: Mapping[str, Any],
        *,
        changes: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> M:
        method = contract.service(area).methods[name]
        return parse(kind, await self._caller.call(method, build(method, fields, changes), **options))

    def _pages(
        self, area: str, name: str, kind: type[M], items: str, fields: Mapping[str, Any], **options: Any
    ) -> AsyncPager[M, Any]:
        async def fetch(page_token: str) -> M:
            given = {**fields, "page_token": page_token} if page_token else fields
            return await self._unary(area, name, kind, given, **options)

        return AsyncPager(fetch, items)

    async def _stream(
        self, area: str, name: str, kind: type[M], fields: Mapping[str, Any], **options: Any
    ) -> AsyncIterator[M]:
        method = contract.service(area).methods[name]
        async for message in self._caller.stream(method, build(method, fields), **options):
            yield parse(kind, message)
