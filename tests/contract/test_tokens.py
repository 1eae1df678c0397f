"""Forged, stale and misplaced tokens, and claims of identity beside them (AUTHN-1, GATE-2)."""

from __future__ import annotations

import base64
import hmac
import json
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import pytest
import pytest_asyncio
from joserfc import jwt
from joserfc.jwk import OKPKey

from taskman_sdk import contract
from taskman_sdk.errors import PermissionDeniedError, UnauthenticatedError
from tests.contract.samples import ROUTED, request_for
from tests.contract.servers import ClusterProcess, ServerProcess
from tests.contract.wires import RestWire, problem_error
from tests.contract.world import Person, Site, project_key

Json = dict[str, Any]


def encoded(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@dataclass(slots=True)
class Forge:
    """A good token in its parts, and the server's own key."""

    key: OKPKey
    header: Json
    claims: Json

    def signed(self, claims: Json | None = None, key: OKPKey | None = None, **header: Any) -> str:
        """A token with other claims or headers, signed with the server's key or another."""
        merged = {name: value for name, value in {**self.header, **header}.items() if value is not None}
        body = {name: value for name, value in {**self.claims, **(claims or {})}.items() if value is not None}
        content = f"{encoded(merged)}.{encoded(body)}"
        private = (key or self.key).private_key
        return f"{content}.{encoded(private.sign(content.encode()))}"  # type: ignore[union-attr]

    def hmac_signed(self, secret: bytes) -> str:
        """HS256 with something everybody knows as its key."""
        content = f"{encoded({**self.header, 'alg': 'HS256'})}.{encoded(self.claims)}"
        return f"{content}.{encoded(hmac.digest(secret, content.encode(), 'sha256'))}"


_KEY = "SELECT private_key FROM signing_keys WHERE retire_time IS NULL"


async def _stored_key(request: pytest.FixtureRequest, shape: str) -> Any:
    if shape.startswith("cluster"):
        cluster: ClusterProcess = request.getfixturevalue("cluster")
        connection = await asyncpg.connect(cluster.settings["database_url"].replace("{service}", "authentication"))
        try:
            return await connection.fetchval(_KEY)
        finally:
            await connection.close()
    server: ServerProcess = request.getfixturevalue("crew" if shape == "workers" else "server")
    with closing(sqlite3.connect(f"file:{server.folder}/data/authentication.db?mode=ro", uri=True)) as database:
        return database.execute(_KEY).fetchone()[0]


@pytest_asyncio.fixture(loop_scope="session")
async def forge(request: pytest.FixtureRequest, remote: Site) -> Forge:
    """Made with the private key out of the server's own database."""
    ann = await remote.person("Ann")
    stored = await _stored_key(request, request.node.callspec.params["remote"])
    header, claims = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in ann.token.split(".")[:2])
    return Forge(OKPKey.import_key(json.loads(stored)), header, claims)


def _tampered(forge: Forge) -> str:
    header, _, signature = forge.signed().split(".")
    return f"{header}.{encoded({**forge.claims, 'sub': 'user_somebody_else'})}.{signature}"


def _flipped(forge: Forge) -> str:
    header, claims, signature = forge.signed().split(".")
    return f"{header}.{claims}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"


def _stranger(forge: Forge) -> str:
    return forge.signed(key=OKPKey.generate_key("Ed25519"))


def _public(forge: Forge) -> Json:
    found: Json = forge.key.as_dict(private=False)
    return found


FORGERIES: dict[str, Callable[[Forge], str]] = {
    "alg none": lambda f: f"{encoded({**f.header, 'alg': 'none'})}.{encoded(f.claims)}.",
    "alg None": lambda f: f"{encoded({**f.header, 'alg': 'None'})}.{encoded(f.claims)}.",
    "no signature": lambda f: f.signed().rpartition(".")[0] + ".",
    "HS256 with the public key": lambda f: f.hmac_signed(base64.urlsafe_b64decode(_public(f)["x"] + "==")),
    "HS256 with the public key's text": lambda f: f.hmac_signed(json.dumps(_public(f)).encode()),
    "HS256 with the public key as PEM": lambda f: f.hmac_signed(f.key.as_pem(private=False)),
    "HS256 with an empty key": lambda f: f.hmac_signed(b""),
    "HS512 in the header": lambda f: f.signed(alg="HS512"),
    "another key": _stranger,
    "another key that the header carries": lambda f: f.signed(
        key=(key := OKPKey.generate_key("Ed25519")), jwk=key.as_dict(private=False)
    ),
    "a key at an address": lambda f: f.signed(jku="http://127.0.0.1:9/jwks.json"),
    "a certificate at an address": lambda f: f.signed(x5u="http://127.0.0.1:9/cert.pem"),
    "a critical header": lambda f: f.signed(crit=["b64"], b64=False),
    "kid with a path": lambda f: f.signed(kid="../../../../dev/null"),
    "kid with SQL": lambda f: f.signed(kid="x' UNION SELECT 'a' --"),
    "kid that is a number": lambda f: f.signed(kid=7),
    "kid that is a list": lambda f: f.signed(kid=["x"]),
    "no kid": lambda f: f.signed(kid=None),
    "unknown kid": lambda f: f.signed(kid="unknown"),
    "wrong aud": lambda f: f.signed({"aud": "somebody-else"}),
    "aud that is a list": lambda f: f.signed({"aud": ["other", "thing"]}),
    "no aud": lambda f: f.signed({"aud": None}),
    "wrong iss": lambda f: f.signed({"iss": "https://evil.example"}),
    "no iss": lambda f: f.signed({"iss": None}),
    "wrong typ": lambda f: f.signed(typ="JWT"),
    "a refresh token's typ": lambda f: f.signed(typ="rt+jwt"),
    "no typ": lambda f: f.signed(typ=None),
    "expired": lambda f: f.signed({"iat": int(time.time()) - 2000, "exp": int(time.time()) - 1000}),
    "no exp": lambda f: f.signed({"exp": None}),
    "exp that is a text": lambda f: f.signed({"exp": "9999999999"}),
    "exp that is infinite": lambda f: f.signed({"exp": 1e400}),
    "not yet good": lambda f: f.signed({"nbf": int(time.time()) + 1000}),
    "made in the future": lambda f: f.signed({"iat": int(time.time()) + 1000, "exp": int(time.time()) + 2000}),
    "no session": lambda f: f.signed({"sid": None}),
    "an unknown session": lambda f: f.signed({"sid": "session_01j00000000000000000000000"}),
    "another user's session": lambda f: f.signed({"sub": "user_01j00000000000000000000000"}),
    "another organization": lambda f: f.signed({"org": "org_01j00000000000000000000000"}),
    "sub that is an object": lambda f: f.signed({"sub": {"a": 1}}),
    "claims that are a list": lambda f: f"{encoded(f.header)}.{encoded([1])}.{f.signed().rpartition('.')[2]}",
    "tampered claims": _tampered,
    "a flipped bit": _flipped,
    "one part": lambda f: "token",
    "two parts": lambda f: f.signed().rpartition(".")[0],
    "four parts": lambda f: f.signed() + ".x",
    "five parts": lambda f: "a.b.c.d.e",
    "empty parts": lambda f: "..",
    "deep JSON": lambda f: f"{encoded(b'[' * 5000)}.{encoded(f.claims)}.x",
    "6 KiB": lambda f: "x" * 6_000,
    "no base64": lambda f: "!!!.???.***",
}


async def test_the_forge_makes_good_tokens_too(remote: Site, forge: Forge) -> None:
    """AUTHN-1: what is refused below is refused for what is wrong with it, not for who made it."""
    assert (await remote.wire.call("UserService.GetMe", {}, forge.signed()))["id"] == forge.claims["sub"]
    assert jwt.decode(forge.signed(), forge.key, algorithms=["EdDSA"]).claims["sub"] == forge.claims["sub"]


@pytest.mark.parametrize("what", FORGERIES)
async def test_a_forged_token_is_refused(remote: Site, forge: Forge, what: str) -> None:
    """AUTHN-1, GATE-2: 401 or UNAUTHENTICATED, and nothing that says how close it was."""
    error = await remote.refused("UserService.GetMe", {}, FORGERIES[what](forge))
    assert isinstance(error, UnauthenticatedError), error
    assert error.reason in ("TOKEN_INVALID", "TOKEN_EXPIRED", "SESSION_ENDED")
    assert error.request_id
    assert error.message.count("\n") == 0


async def test_a_refresh_token_is_no_access_token(remote: Site) -> None:
    """AUTHN-1."""
    ann = await remote.person("Ann")
    assert isinstance(await remote.refused("UserService.GetMe", {}, ann.refresh_token), UnauthenticatedError)


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Basic YTpi", "bearer", "Token x", "Bearer a b", "{token}", "Basic {token}"]
)
async def test_a_token_that_is_not_a_bearer_token_is_refused(remote: Site, header: str) -> None:
    """AUTHN-1, RFC 6750: and over REST the answer says what is wanted."""
    ann = await remote.person("Ann")
    given = {"authorization": header.replace("{token}", ann.token)}
    assert isinstance(await remote.refused("UserService.GetMe", {}, None, given), UnauthenticatedError)
    if isinstance(remote.wire, RestWire):
        response = await remote.wire.http.get("/v1/users/me", headers=given)
        assert response.headers["www-authenticate"].startswith('Bearer realm="taskman"')
        problem_error(response)


async def test_a_token_longer_than_any_is_refused(rest: Site) -> None:
    """AUTHN-1: 401 as well, not a complaint about a field of an internal call."""
    error = await rest.refused("UserService.GetMe", {}, "x" * 20_000)
    assert (type(error), error.reason) == (UnauthenticatedError, "TOKEN_INVALID")


async def test_a_token_in_the_query_or_a_cookie_is_no_token(rest: Site) -> None:
    """AUTHN-1, RFC 9700: tokens stand in one place alone."""
    ann, wire = await rest.person("Ann"), rest.wire
    assert isinstance(wire, RestWire)
    for request in (
        {"params": {"access_token": ann.token}},
        {"headers": {"cookie": f"access_token={ann.token}; session={ann.token}"}},
    ):
        assert (await wire.http.get("/v1/users/me", **request)).status_code == 401  # type: ignore[arg-type]


def claims_of_identity(person: Person) -> dict[str, str]:
    """What a proxy, a mesh or an older system would believe."""
    return {
        "x-user-id": person.id,
        "x-user": person.id,
        "x-taskman-user": person.id,
        "x-taskman-principal": person.id,
        "x-taskman-organization": "default",
        "x-taskman-caller": "service:tasks",
        "x-forwarded-user": person.email,
        "x-forwarded-email": person.email,
        "x-forwarded-for": "10.0.0.1",
        "x-consumer-id": person.id,
        "x-consumer-username": person.email,
        "x-authenticated-userid": person.id,
        "x-remote-user": person.email,
        "remote-user": person.email,
        "x-org-id": "default",
        "x-roles": "admin",
        "x-service": "tasks",
        "x-internal": "true",
        "x-envoy-peer-metadata": "service:tasks",
        "x-forwarded-client-cert": "URI=spiffe://taskman/tasks",
    }


async def test_claims_of_identity_beside_the_token_are_ignored(remote: Site) -> None:
    """GATE-2: nobody becomes somebody by a header."""
    admin, ann = await remote.admin(), await remote.person("Ann")
    claims = claims_of_identity(admin)
    assert isinstance(await remote.refused("UserService.GetMe", {}, None, claims), UnauthenticatedError)
    me = await remote.wire.call("UserService.GetMe", {}, ann.token, claims)
    assert me["id"] == ann.id
    error = await remote.refused("IamAdminService.ListRoles", {}, ann.token, claims)
    assert isinstance(error, PermissionDeniedError)
    wanted = {"project": {"key": project_key(), "display_name": "x"}}
    project = await remote.wire.call("TaskService.CreateProject", wanted, ann.token, claims)
    assert project["members"] == [{"user": ann.id, "role": "admin"}]
    record = await remote.event(f'type == "project.created" && target_id == "{project["id"]}"')
    assert (record["actor"], record["ip_address"]) in [(ann.id, "127.0.0.1"), (ann.id, "")]


INTERNAL = [method for method in contract.methods() if method.access == "internal"]
_INTERNAL_REQUESTS: dict[str, Json] = {
    "AuthenticationService.ValidateToken": {"access_token": "x"},
    "AuthorizationService.ReportDenial": {"permission": "tasks.read"},
    "UserService.ProvisionUser": {"email": "sneaked@example.com", "display_name": "S"},
    "IamAdminService.ProvisionPrincipal": {"principal": "user_x", "organization": "default", "role": "admin"},
    "IamAdminService.SuspendPrincipal": {"principal": "user_x", "revision": 1},
    "IamAdminService.ResumePrincipal": {"principal": "user_x", "revision": 1},
    "IamAdminService.GetSnapshot": {"organization": "default"},
    "NotificationService.SendMail": {"email": "sneaked@example.com", "template": "set_up"},
}


@pytest.mark.parametrize("method", INTERNAL, ids=lambda method: method.operation_id)
async def test_what_services_call_among_themselves_is_closed_to_users(grpc: Site, method: contract.Method) -> None:
    """GATE-2: over gRPC refused to anybody, the administrator included; and there is no route to it."""
    admin = await grpc.admin()
    request = _INTERNAL_REQUESTS[method.operation_id]
    assert method.route is None
    assert isinstance(await grpc.refused(method.operation_id, request), UnauthenticatedError)
    for headers in ({}, claims_of_identity(admin), {"x-taskman-caller": "service:authentication"}):
        error = await grpc.refused(method.operation_id, request, admin.token, headers)
        assert (type(error), error.reason) == (PermissionDeniedError, "INTERNAL_METHOD")
    for name in ("sneaked@example.com",):
        listed = await admin.call("UserService.ListUsers", filter=f'email == "{name}"')
        assert listed["users"] == []


async def test_what_services_call_among_themselves_has_no_path(rest: Site) -> None:
    """GATE-1, GATE-2: neither by gRPC's own path nor by a guess."""
    admin, wire = await rest.admin(), rest.wire
    assert isinstance(wire, RestWire)
    for method in INTERNAL:
        guesses = (method.path, f"/v1{method.path}", f"/v1/{method.handler}", f"/v1/internal/{method.handler}")
        for path in guesses:
            response = await wire.http.post(path, json={}, headers={"authorization": f"Bearer {admin.token}"})
            assert response.status_code in (404, 405), path
            problem_error(response)


@pytest.mark.parametrize("method", [m for m in ROUTED if m.access != "public"], ids=lambda m: m.operation_id)
async def test_nothing_is_answered_without_a_token(remote: Site, method: contract.Method) -> None:
    """GATE-2, AUTHZ-1: whatever is not public."""
    error = await remote.refused(method.operation_id, request_for(method))
    assert (type(error), error.reason) == (UnauthenticatedError, "TOKEN_MISSING")
