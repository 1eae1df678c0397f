"""What the contract says, read once from the descriptors: methods, routes, permissions, events.

Everything that must not be written twice is made from here: the gateway's routes, OpenAPI, the permission catalogue,
stubs and servicers, the SDK's verbs, the audit's names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any, Final, Literal

from protobuf import DescField, DescFieldValueMessage, DescMessage, DescMethod, DescService, Message

from taskman_sdk.proto.google.api.annotations_pb import ext_http
from taskman_sdk.proto.google.api.http_pb import HttpRule
from taskman_sdk.proto.taskman.options.v1.options_pb import Access, ext_event, ext_field, ext_resource, ext_rule

__all__ = ["AREAS", "CALLERS", "ContractError", "EventType", "Method", "Route", "Service", "camel_to_snake", "event",
           "events", "method", "methods", "permissions", "resources", "secret_fields", "service",
           "services"]  # fmt: skip

AREAS: Final = ("authentication", "authorization", "user", "iam", "task", "audit", "notification")
CALLERS: Final = ("authentication", "authorization", "users", "iam", "tasks", "audit", "notifications", "gateway")
"""The parts of a deployment that call each other: the seven services and the gateway, as certificates name them."""
AccessName = Literal["public", "authenticated", "internal", "permission"]
_ACCESS: Final[Mapping[Access, AccessName]] = {
    Access.PUBLIC: "public",
    Access.AUTHENTICATED: "authenticated",
    Access.INTERNAL: "internal",
}
_WORD: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


class ContractError(Exception):
    """The contract contradicts itself; the message names the place and the remedy."""


def camel_to_snake(name: str) -> str:
    """`CreateTask` → `create_task`."""
    return _WORD.sub("_", name).lower()


@dataclass(frozen=True, slots=True)
class Route:
    """A REST route of an RPC (google.api.http).

    Attributes:
        verb: the HTTP method.
        template: the path with `{field}` for each parameter, for example `/v1/tasks/{task}:assign`.
        body: the field that the body fills; `*` for the message itself; empty for none.
    """

    verb: str
    template: str
    body: str

    @property
    def parameters(self) -> tuple[str, ...]:
        """The fields that the path fills, for example `task.id`."""
        return tuple(re.findall(r"\{([^}]+)\}", self.template))


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC.

    Attributes:
        service: the short name of its service, for example `TaskService`.
        name: for example `CreateTask`.
        path: its gRPC path, `/taskman.task.v1.TaskService/CreateTask`.
        area: the area of the contract, for example `task`.
        input: the class of the request.
        output: the class of the answer, or of each answer when `streaming`.
        access: who may call.
        permission: the permission that is needed, when `access` is `permission`.
        events: the names of the events it can emit.
        sensitive: request or answer hold a secret.
        read_only: it changes nothing.
        streaming: the answer is a stream.
        route: its REST route; None for internal ones.
        callers: the services that may call it as themselves.
    """

    service: str
    name: str
    path: str
    area: str
    input: type[Message[Any]]
    output: type[Message[Any]]
    access: AccessName
    permission: str
    events: tuple[str, ...]
    sensitive: bool
    read_only: bool
    streaming: bool
    route: Route | None
    callers: frozenset[str]

    @property
    def handler(self) -> str:
        """The name of the handler's and the SDK's function, for example `create_task`."""
        return camel_to_snake(self.name)

    @property
    def operation_id(self) -> str:
        """OpenAPI's `operationId`, for example `TaskService.CreateTask`."""
        return f"{self.service}.{self.name}"


@dataclass(frozen=True, slots=True)
class Service:
    """One gRPC service with its methods by name."""

    name: str
    full_name: str
    area: str
    methods: Mapping[str, Method] = field(repr=False)


@dataclass(frozen=True, slots=True)
class EventType:
    """An event that the contract declares.

    Attributes:
        name: for example `task.created`; also the routing key.
        cloud_type: the CloudEvents type, `taskman.task.created.v1`.
        payload: the class of its data.
        area: the area that emits it.
    """

    name: str
    cloud_type: str
    payload: type[Message[Any]]
    area: str


def _route(rule: HttpRule) -> Route:
    if rule.pattern is None or not isinstance(rule.pattern.value, str):
        raise ContractError("google.api.http needs get, post, put, patch or delete")
    return Route(rule.pattern.field.upper(), rule.pattern.value, rule.body)


def _method(area: str, owner: DescService, desc: DescMethod) -> Method:
    where = f"{owner.type_name}.{desc.name}"
    options = desc.proto.options
    rule = options[ext_rule] if options is not None and ext_rule in options else None
    if rule is None or bool(rule.permission) == (rule.access != Access.UNSPECIFIED):
        raise ContractError(
            f"{where} declares no permission: give it option (taskman.options.v1.rule) with exactly one of "
            "`permission` and `access` (IAM-3)"
        )
    http = options[ext_http] if options is not None and ext_http in options else None
    access: AccessName = "permission" if rule.permission else _ACCESS[rule.access]
    if (http is None) != (access == "internal"):
        raise ContractError(f"{where}: an RPC has a google.api.http route exactly when it is not internal")
    route = _route(http) if http is not None else None
    if route is not None:
        for parameter in (*route.parameters, *([route.body] if route.body not in ("", "*") else [])):
            _field_of(desc.input, parameter, where)
    if unknown := [name for name in rule.callers if name not in CALLERS]:
        raise ContractError(f"{where}: {unknown[0]!r} in `callers` is no service; services are {', '.join(CALLERS)}")
    if access == "internal" and not rule.callers:
        raise ContractError(f"{where} is internal and names nobody who calls it: fill `callers` of its rule")
    return Method(
        service=owner.name,
        name=desc.name,
        path=f"/{owner.type_name}/{desc.name}",
        area=area,
        input=desc.input.type,
        output=desc.output.type,
        access=access,
        permission=rule.permission,
        events=tuple(rule.events),
        sensitive=rule.sensitive,
        read_only=rule.read_only,
        streaming=desc.method_kind == "server_streaming",
        route=route,
        callers=frozenset(rule.callers),
    )


def _field_of(message: DescMessage, path: str, where: str) -> DescField:
    found: DescField | None = None
    current: DescMessage | None = message
    for name in path.split("."):
        found = next((f for f in current.fields if f.name == name), None) if current is not None else None
        if found is None:
            raise ContractError(f"{where}: its route names {path!r}, which {message.type_name} does not have")
        current = found.value.message if isinstance(found.value, DescFieldValueMessage) else None
    assert found is not None
    return found


def read_service(area: str, desc: DescService) -> Service:
    """Reads one service.

    Raises:
        ContractError: an RPC declares no permission, or a route does not fit its message.
    """
    return Service(desc.name, desc.type_name, area, {m.name: _method(area, desc, m) for m in desc.methods})


def _file(area: str) -> Any:
    return import_module(f"taskman_sdk.proto.taskman.{area}.v1.{area}_pb").desc()


@cache
def services() -> Mapping[str, Service]:
    """All services by short name, for example `TaskService`."""
    return {desc.name: read_service(area, desc) for area in AREAS for desc in _file(area).services}


@cache
def service(area: str) -> Service:
    """The service of one area; imports no other area."""
    (desc,) = _file(area).services
    return read_service(area, desc)


def methods() -> Iterator[Method]:
    """All RPCs, in the order of the contract."""
    for each in services().values():
        yield from each.methods.values()


def method(operation_id: str) -> Method:
    """One RPC by `TaskService.CreateTask`.

    Raises:
        KeyError: there is none.
    """
    owner, _, name = operation_id.partition(".")
    return services()[owner].methods[name]


@cache
def permissions() -> Mapping[str, tuple[Method, ...]]:
    """The permission catalogue: each permission with the RPCs that need it (IAM-3)."""
    catalogue: dict[str, list[Method]] = {}
    for each in methods():
        if each.permission:
            catalogue.setdefault(each.permission, []).append(each)
    return {name: tuple(users) for name, users in sorted(catalogue.items())}


@cache
def events() -> Mapping[str, EventType]:
    """All events by name.

    Raises:
        ContractError: an RPC names an event that no payload declares, or two payloads declare one.
    """
    found: dict[str, EventType] = {}
    for area in AREAS:
        for message in _file(area).messages:
            options = message.proto.options
            if options is None or ext_event not in options:
                continue
            for name in options[ext_event].names:
                if name in found:
                    raise ContractError(f"{message.type_name}: {found[name].payload.__name__} declares {name!r} too")
                found[name] = EventType(name, f"taskman.{name}.v1", message.type, area)
    for each in methods():
        if missing := [name for name in each.events if name not in found]:
            raise ContractError(f"{each.operation_id} emits {missing[0]!r}, which no event payload declares")
    return found


def event(name: str) -> EventType:
    """One event by name.

    Raises:
        KeyError: the contract has no such event.
    """
    return events()[name]


@cache
def resources() -> Mapping[str, type[Message[Any]]]:
    """What policies can look at, by the first word of the permission: `tasks` → `TaskResource`.

    Raises:
        ContractError: a permission has no resource, so that its policies could not be checked.
    """
    found: dict[str, type[Message[Any]]] = {}
    for area in AREAS:
        for message in _file(area).messages:
            options = message.proto.options
            if options is not None and ext_resource in options:
                found |= dict.fromkeys(options[ext_resource].prefixes, message.type)
    for name in permissions():
        if name.partition(".")[0] not in found:
            raise ContractError(f"{name!r} is about nothing: a message needs option (taskman.options.v1.resource)")
    return found


@cache
def secret_fields() -> frozenset[str]:
    """The names of all fields that hold a secret, for redaction in logs."""
    return frozenset(
        each.name
        for area in AREAS
        for message in _file(area).messages
        for each in message.fields
        if each.proto.options is not None and ext_field in each.proto.options and each.proto.options[ext_field].secret
    )
