"""Bad input on every route, made from the contract: a 4xx that names the field; nothing changes (GATE-1, GATE-4)."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from protobuf import DescFieldValueScalar, ScalarType

from taskman_sdk import codec, contract
from taskman_sdk.errors import InvalidArgumentError, NotFoundError, TaskManError
from tests.contract.samples import ROUTED, request_for, wrong_bodies, wrong_queries
from tests.contract.waiting import eventually
from tests.contract.wires import GrpcWire, RestWire, message_of, problem_error, rest_parts
from tests.contract.world import Person, Site, unique

Json = dict[str, Any]
WITH_BODY = [method for method in ROUTED if method.route is not None and method.route.body]
LARGE = b'{"title":"' + b"x" * (10 << 20) + b'"}'
DEEP = b'{"a":' * 1000 + b"1" + b"}" * 1000


def ids(method: contract.Method) -> str:
    return method.operation_id


async def send(site: Site, method: contract.Method, person: Person, **change: Any) -> httpx.Response:
    """Sends a request over REST with something changed: `target`, `content`, `headers`."""
    wire = site.wire
    assert isinstance(wire, RestWire)
    verb, target, body = rest_parts(method, request_for(method))
    content = change.get("content", None if body is None else json.dumps(body).encode())
    headers = {"authorization": f"Bearer {person.token}", "content-type": "application/json"}
    headers |= change.get("headers", {})
    target += change.get("query", "")
    return await wire.http.request(verb, target, content=content, headers=headers)


async def changes(site: Site, person: Person) -> list[str]:
    """What this person changed, after the log: everything but reading it and signing in."""
    quiet = ("audit.read", "auth.login.succeeded", "auth.login.failed", "authz.denied")
    records = await site.events(f'actor == "{person.id}" && !(type in {json.dumps(quiet)})')
    return [record["type"] for record in records]


def check(response: httpx.Response, what: str) -> TaskManError:
    """A 4xx problem document."""
    assert 400 <= response.status_code < 500, (what, response.status_code, response.text[:500])
    return problem_error(response)


def named(error: TaskManError, fields: tuple[str, ...]) -> bool:
    """Whether the error names one of the fields."""
    found = [each.field for each in error.field_violations]
    return any(name == field or name.startswith((f"{field}[", f"{field}.")) for name in found for field in fields)


@pytest.mark.parametrize("method", WITH_BODY, ids=ids)
async def test_a_body_in_which_one_field_is_wrong(rest: Site, method: contract.Method) -> None:
    """GATE-1, GATE-4: wrong type, missing, too long, of no known form, unknown; the answer names the field."""
    admin = await rest.admin()
    wire = rest.wire
    assert isinstance(wire, RestWire)
    problems = []

    async def one(wrong: Any) -> None:
        verb, target, body = rest_parts(method, wrong.request)
        response = await wire.http.request(verb, target, json=body, headers={"authorization": f"Bearer {admin.token}"})
        if not 400 <= response.status_code < 500:
            problems.append((wrong.what, response.status_code, response.text[:200]))
            return
        error = problem_error(response)
        if not named(error, wrong.fields):
            problems.append((wrong.what, "names", [each.field for each in error.field_violations], str(error)[:200]))

    await asyncio.gather(*(one(wrong) for wrong in wrong_bodies(method)))
    assert problems == []


@pytest.mark.parametrize("method", ROUTED, ids=ids)
async def test_a_query_in_which_one_parameter_is_wrong(rest: Site, method: contract.Method) -> None:
    """GATE-1, GATE-4: unknown, no number, too long, twice, no UTF-8, a bad cursor, filter or order."""
    admin = await rest.admin()
    for what, query, field in wrong_queries(method):
        joint = "&" if "?" in rest_parts(method, request_for(method))[1] else "?"
        error = check(await send(rest, method, admin, query=joint + query), what)
        assert field in [each.field for each in error.field_violations], (what, error)
        if what == "a bad filter":
            assert error.metadata["line"] == "1"
            assert int(error.metadata["column"]) > 1


@pytest.mark.parametrize("method", WITH_BODY, ids=ids)
async def test_a_body_that_is_no_message_at_all(rest: Site, method: contract.Method) -> None:
    """GATE-4: encoding, type, size, depth, syntax."""
    admin = await rest.admin()
    good = json.dumps({"title": "x"}).encode()
    cases: list[tuple[str, bytes, dict[str, str], int]] = [
        ("10 MiB", LARGE, {}, 413),
        ("1,000 deep", DEEP, {}, 400),
        ("1,000 lists deep", b"[" * 1000 + b"]" * 1000, {}, 400),
        ("no UTF-8", b'{"title":"\xff\xfe"}', {}, 400),
        ("UTF-16", json.dumps({"title": "x"}).encode("utf-16"), {}, 400),
        ("a lone surrogate", b'{"title":"\\ud800"}', {}, 400),
        ("another charset", good, {"content-type": "application/json; charset=utf-16"}, 415),
        ("a form", b"title=x", {"content-type": "application/x-www-form-urlencoded"}, 415),
        ("XML", b"<title/>", {"content-type": "text/xml"}, 415),
        ("cut off", b'{"title":', {}, 400),
        ("two values", b"{}{}", {}, 400),
        ("a list", b"[]", {}, 400),
        ("a string", b'"x"', {}, 400),
        ("null", b"null", {}, 400),
        ("NaN", b'{"title": NaN}', {}, 400),
        ("a byte order mark", b"\xef\xbb\xbf{}", {}, 400),
        ("a comment", b"{/* x */}", {}, 400),
        ("a NUL", b"\x00", {}, 400),
    ]
    for what, content, headers, status in cases:
        error = check(response := await send(rest, method, admin, content=content, headers=headers), what)
        assert response.status_code == status, (what, response.status_code, str(error))


@pytest.mark.parametrize("method", [m for m in ROUTED if m.route and m.route.parameters], ids=ids)
async def test_an_id_that_names_nothing(rest: Site, method: contract.Method) -> None:
    """GATE-1: 404 or what is wrong with it, whatever it looks like; never a fault."""
    admin = await rest.admin()
    wire = rest.wire
    assert isinstance(wire, RestWire)
    verb, target, body = rest_parts(method, request_for(method))
    unknown = quote("thing_01j00000000000000000000000", safe="")
    for name in ("x", "-", "0", "%00", "%ff", "%F0%9F%A6%A6", "..", "..%2f..%2fetc", "'%20OR%201=1", "x" * 101, "%25"):
        response = await wire.http.request(
            verb,
            target.replace(unknown, name, 1),
            json=body,
            headers={"authorization": f"Bearer {admin.token}"},
        )
        error = check(response, name)
        assert isinstance(error, (NotFoundError, InvalidArgumentError)) or response.status_code in (405, 409), name


@pytest.mark.parametrize("method", ROUTED, ids=ids)
async def test_a_route_takes_its_own_verbs_alone(rest: Site, method: contract.Method) -> None:
    """GATE-1: 405 with `Allow` where the path is known, never another RPC by accident."""
    wire = rest.wire
    assert isinstance(wire, RestWire)
    _, target, _ = rest_parts(method, request_for(method))
    for verb in ("TRACE", "PROPFIND", "PUT", "OPTIONS"):
        response = await wire.http.request(verb, target.partition("?")[0])
        assert response.status_code == 405, (verb, response.text)
        problem_error(response)
        assert method.route is not None
        assert method.route.verb in response.headers["allow"].split(", ")


async def test_nothing_changed_by_all_that(rest: Site) -> None:
    """GATE-4: refused requests leave no trace in the state: one of each kind, then a look at the log."""
    admin, ann = await rest.admin(), await rest.new_person("Ann")
    project = await ann.project()
    task = await ann.task(project["id"])
    await rest.event(f'type == "task.created" && target_id == "{task["id"]}"')
    before = await changes(rest, ann)
    refused: list[tuple[str, Json]] = [
        ("TaskService.UpdateTask", {"task": {"id": task["id"], "title": "x" * 501}, "update_mask": "title"}),
        ("TaskService.UpdateTask", {"task": {"id": task["id"], "title": "y", "priority": "z"}}),
        ("TaskService.UpdateTask", {"task": {"id": task["id"], "title": "y", "no_such_field": 1}}),
        ("TaskService.UpdateTask", {"task": {"id": task["id"], "title": "y"}, "update_mask": "title,nothing"}),
        ("TaskService.UpdateTask", {"task": {"id": task["id"], "title": "y", "etag": "stale"}}),
        ("TaskService.TransitionTask", {"task": task["id"], "state": "done", "etag": "stale"}),
        ("TaskService.AssignTask", {"task": task["id"], "assignees": [ann.id, "user_nobody"]}),
        ("TaskService.CreateTask", {"task": {"project": project["id"], "title": "x", "labels": ["ok", ""]}}),
        ("TaskService.AddProjectMember", {"project": project["id"], "user": ann.id, "role": "emperor"}),
        ("UserService.UpdateUser", {"user": {"id": ann.id, "display_name": "x", "time_zone": "Mars/Base"}}),
    ]
    for operation, request in refused:
        error = await ann.refused(operation, request)
        assert 400 <= error.http_status < 500, operation
    assert await ann.call("TaskService.GetTask", task=task["id"]) == task
    assert await ann.call("TaskService.GetProject", project=project["id"]) == project
    # A change after all of them has reached the log: theirs would have, too.
    marker = await admin.call(
        "TaskService.CreateProject", project={"key": unique("M").upper()[:10], "display_name": "m"}
    )
    await rest.event(f'type == "project.created" && target_id == "{marker["id"]}"')
    assert await changes(rest, ann) == before


@pytest.mark.parametrize("method", [m for m in ROUTED if not m.streaming], ids=ids)
async def test_bytes_that_are_no_message_over_grpc(grpc: Site, method: contract.Method) -> None:
    """GATE-1, GATE-4: INVALID_ARGUMENT with details, never INTERNAL or UNKNOWN."""
    admin = await grpc.admin()
    wire = grpc.wire
    assert isinstance(wire, GrpcWire)
    cases = [b"\xff\xff\xff\xff", b"\x0a\xff\xff\xff\xff\x0f", b"\x0f"]
    cases += [
        bytes([field.number << 3 | 2, 2]) + b"\xff\xfe"  # a string that is not UTF-8
        for field in method.input.desc().fields
        if isinstance(field.value, DescFieldValueScalar) and field.value.scalar is ScalarType.STRING
    ]
    for data in cases:
        with pytest.raises(TaskManError) as caught:
            await wire.send(method, data, admin.token)
        assert isinstance(caught.value, InvalidArgumentError), (data, caught.value)
        assert caught.value.reason in ("BODY_INVALID", "FIELD_INVALID")


@pytest.mark.parametrize("method", WITH_BODY, ids=ids)
async def test_a_message_that_breaks_a_rule_over_grpc(grpc: Site, method: contract.Method) -> None:
    """GATE-1: the same rules, the same field, over gRPC as over REST."""
    admin = await grpc.admin()
    for wrong in wrong_bodies(method):
        try:
            message_of(method, wrong.request)
        except codec.DecodeError:
            continue  # no such message can be built
        error = await grpc.refused(method.operation_id, wrong.request, admin.token)
        assert isinstance(error, InvalidArgumentError), (wrong.what, error)
        assert named(error, wrong.fields), (wrong.what, error)


async def test_a_message_larger_than_any_is_refused_over_grpc(grpc: Site) -> None:
    """GATE-4: RESOURCE_EXHAUSTED by the protocol's own limit, and the server goes on."""
    admin = await grpc.admin()
    task = {"project": "x", "title": "x", "description": "x" * (17 << 20)}
    error = await grpc.refused("TaskService.CreateTask", {"task": task}, admin.token)
    assert error.code == "RESOURCE_EXHAUSTED"

    async def answers() -> bool:
        return bool(await admin.call("UserService.GetMe"))

    assert await eventually(answers, "the next answer", ignore=(TaskManError,))
