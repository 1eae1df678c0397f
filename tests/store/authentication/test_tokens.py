"""Access tokens: who they are good for, and every known way to forge one."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from taskman_sdk.errors import TaskManError, UnauthenticatedError
from taskman_sdk.proto.taskman.authentication.v1.authentication_pb import (
    GetJwksRequest,
    Jwks,
    LogoutRequest,
    LogoutResponse,
    TokenResponse,
)
from taskman_sdk.proto.taskman.user.v1.user_pb import DeactivateUserRequest, User
from taskman_server.kit.rpc import Principal, service_principal
from taskman_server.services.authentication import rotate_signing_key
from taskman_server.services.authentication.tokens import AUDIENCE
from tests.store.authentication.harness import PUBLIC_URL, House


def _part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def _open(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    header, claims, _ = token.split(".")
    return tuple(json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))) for part in (header, claims))  # type: ignore[return-value]


async def _own_key(house: House) -> tuple[OKPKey, str]:
    (row,) = await house.rows("authentication", "signing_keys")
    return OKPKey.import_key(json.loads(row.private_key)), row.kid


async def _jwks(house: House) -> Jwks:
    return await house.call("AuthenticationService.GetJwks", GetJwksRequest(), Jwks)


async def test_a_token_says_whose_it_is_in_the_form_of_rfc_9068(house: House) -> None:
    """AUTHN-1: EdDSA, 15 min, iss aud sub org sid jti."""
    tokens, ann = await house.person("ann@example.com")
    header, claims = _open(tokens.access_token)
    (key,) = (await _jwks(house)).keys
    assert header == {"alg": "EdDSA", "typ": "at+jwt", "kid": key.kid}
    assert (claims["iss"], claims["aud"], claims["sub"]) == (PUBLIC_URL, AUDIENCE, ann.id)
    assert (claims["org"], claims["sid"]) == ("default", ann.session)
    assert claims["exp"] - claims["iat"] == tokens.expires_in == 900
    assert claims["jti"]


async def test_others_can_verify_a_token_by_the_published_keys(house: House) -> None:
    """AUTHN-3: JWKS; no private part in it."""
    tokens, ann = await house.person("ann@example.com")
    (key,) = (await _jwks(house)).keys
    public = OKPKey.import_key({"kty": key.kty, "crv": key.crv, "x": key.x})
    assert jwt.decode(tokens.access_token, public, algorithms=["EdDSA"]).claims["sub"] == ann.id
    assert (key.alg, key.use, public.is_private) == ("EdDSA", "sig", False)


Forge = Callable[[dict[str, Any], dict[str, Any], OKPKey, TokenResponse], str]


def _signed(header: dict[str, Any], claims: Any, key: OKPKey) -> str:
    # By hand: the library would refuse to write some of these headers.
    text = f"{_part(header)}.{_part(claims)}"
    private = Ed25519PrivateKey.from_private_bytes(base64.urlsafe_b64decode(str(key.as_dict(private=True)["d"]) + "="))
    return f"{text}.{base64.urlsafe_b64encode(private.sign(text.encode())).rstrip(b'=').decode()}"


def _with_header(**changes: Any) -> Forge:
    return lambda header, claims, key, _: _signed({**header, **changes}, claims, key)


def _with_claims(**changes: Any) -> Forge:
    def forge(header: dict[str, Any], claims: dict[str, Any], key: OKPKey, _: TokenResponse) -> str:
        kept = {name: value for name, value in {**claims, **changes}.items() if value is not ...}
        return _signed(header, kept, key)

    return forge


def _none(alg: str) -> Forge:
    return lambda header, claims, key, _: f"{_part({**header, 'alg': alg})}.{_part(claims)}."


def _by_public_key(header: dict[str, Any], claims: dict[str, Any], key: OKPKey, _: TokenResponse) -> str:
    secret = OctKey.import_key(base64.urlsafe_b64decode(str(key.as_dict(private=False)["x"]) + "="))
    return jwt.encode({**header, "alg": "HS256"}, claims, secret, algorithms=["HS256"])


def _by_other_kind(alg: str, make: Callable[[], Any]) -> Forge:
    return lambda header, claims, key, _: jwt.encode({**header, "alg": alg}, claims, make(), algorithms=[alg])


def _by_stranger(header: dict[str, Any], claims: dict[str, Any], key: OKPKey, _: TokenResponse) -> str:
    return _signed(header, claims, OKPKey.generate_key("Ed25519"))


def _key_in_header(name: str) -> Forge:
    def forge(header: dict[str, Any], claims: dict[str, Any], key: OKPKey, _: TokenResponse) -> str:
        stranger = OKPKey.generate_key("Ed25519")
        value: Any = {
            "jwk": stranger.as_dict(private=False),
            "jku": "https://evil.example/jwks.json",
            "x5u": "https://evil.example/cert.pem",
            "x5c": ["AAAA"],
        }[name]
        return _signed({**header, name: value}, claims, stranger)

    return forge


def _swap_claims(header: dict[str, Any], claims: dict[str, Any], key: OKPKey, tokens: TokenResponse) -> str:
    first, _, last = tokens.access_token.split(".")
    return f"{first}.{_part({**claims, 'sub': 'user_somebody'})}.{last}"


def _bend_signature(header: dict[str, Any], claims: dict[str, Any], key: OKPKey, tokens: TokenResponse) -> str:
    first, middle, last = tokens.access_token.split(".")
    return f"{first}.{middle}.{('A' if last[0] != 'A' else 'B') + last[1:]}"


HOSTILE: dict[str, Forge] = {
    "alg none": _none("none"),
    "alg None": _none("None"),
    "alg empty": _none(""),
    "no signature": lambda h, c, k, t: t.access_token.rpartition(".")[0] + ".",
    "HS256 with the public key": _by_public_key,
    "ES256": _by_other_kind("ES256", lambda: ECKey.generate_key("P-256")),
    "RS256": _by_other_kind("RS256", lambda: RSAKey.generate_key(2048)),
    "alg is a list": _with_header(alg=["EdDSA"]),
    "alg in other letters": _with_header(alg="eddsa"),
    "kid is a list": _with_header(kid=["x"]),
    "crit header": _with_header(crit=["exp"]),
    "unencoded payload": _with_header(b64=False),
    "a stranger's key": _by_stranger,
    "jwk header": _key_in_header("jwk"),
    "jku header": _key_in_header("jku"),
    "x5u header": _key_in_header("x5u"),
    "x5c header": _key_in_header("x5c"),
    "our key, jku beside it": _with_header(jku="https://evil.example/jwks.json"),
    "unknown kid": _with_header(kid="nobody"),
    "kid is a path": _with_header(kid="../../../../dev/null"),
    "kid is SQL": _with_header(kid="x' UNION SELECT 'AAAA' --"),
    "kid is empty": _with_header(kid=""),
    "typ JWT": _with_header(typ="JWT"),
    "typ of an id token": _with_header(typ="id+jwt"),
    "another issuer": _with_claims(iss="https://evil.example"),
    "no issuer": _with_claims(iss=...),
    "another audience": _with_claims(aud="somebody"),
    "a list of audiences": _with_claims(aud=[AUDIENCE, "somebody"]),
    "no audience": _with_claims(aud=...),
    "no expiry": _with_claims(exp=...),
    "expiry is text": _with_claims(exp="9999999999"),
    "expiry is true": _with_claims(exp=True),
    "expiry is not finite": _with_claims(exp=float("inf")),
    "expired": _with_claims(exp=1_000_000_000),
    "not yet good": _with_claims(nbf=9_999_999_999),
    "issued in the future": _with_claims(iat=9_999_999_999),
    "no subject": _with_claims(sub=...),
    "another subject": _with_claims(sub="user_somebody"),
    "another organization": _with_claims(org="org_somebody"),
    "no such session": _with_claims(sid="session_nothing"),
    "session is a number": _with_claims(sid=7),
    "claims swapped": _swap_claims,
    "signature bent": _bend_signature,
    "the refresh token": lambda h, c, k, t: t.refresh_token,
    "five parts": lambda h, c, k, t: t.access_token + ".x.y",
    "header is no JSON": lambda h, c, k, t: "e30x." + t.access_token.partition(".")[2],
    "header is a list": lambda h, c, k, t: f"{_part([1])}.{t.access_token.partition('.')[2]}",
    "header nests deep": lambda h, c, k, t: (
        base64.urlsafe_b64encode(b'{"a":' * 900 + b"1" + b"}" * 900).decode() + "." + t.access_token.partition(".")[2]
    ),
    "claims are a list": lambda h, c, k, t: _signed(h, [1], k),
    "not ASCII": lambda h, c, k, t: "ünï.cöde.tökén",
    "NUL": lambda h, c, k, t: t.access_token + "\0",
    "nothing": lambda h, c, k, t: " ",
}


async def test_forged_tokens_are_refused_without_a_word_too_many(house: House) -> None:
    """AUTHN-1: RFC 8725's attacks, and some more, all UNAUTHENTICATED; the good one stays good."""
    tokens, ann = await house.person("ann@example.com")
    key, _ = await _own_key(house)
    header, claims = _open(tokens.access_token)
    wrong: dict[str, str] = {}
    for attack, forge in HOSTILE.items():
        forged = forge(dict(header), dict(claims), key, tokens)
        assert forged != tokens.access_token, attack
        try:
            await house.validate(forged)
            wrong[attack] = "was taken"
        except UnauthenticatedError as error:
            if error.reason not in {"TOKEN_INVALID", "TOKEN_EXPIRED", "SESSION_ENDED"}:
                wrong[attack] = error.reason
            if any(word in str(error) for word in ("kid", "alg", "key", "signature", "user_", "evil")):
                wrong[attack] = str(error)
        except TaskManError as error:
            wrong[attack] = repr(error)
    assert wrong == {}
    assert await house.validate(tokens.access_token) == ann


async def test_the_forger_signs_as_we_do(house: House) -> None:
    """AUTHN-1: the attacks above differ from a good token in what they say they do, and nothing else."""
    tokens, ann = await house.person("ann@example.com")
    key, _ = await _own_key(house)
    header, claims = _open(tokens.access_token)
    assert await house.validate(_signed(header, {**claims, "jti": "another"}, key)) == ann


async def test_a_token_expires_although_its_signature_is_remembered(house: House) -> None:
    """AUTHN-1: 15 minutes, five seconds of leeway."""
    tokens, ann = await house.person("ann@example.com")
    house.clock.advance(899)
    assert await house.validate(tokens.access_token) == ann
    house.clock.advance(10)
    with pytest.raises(UnauthenticatedError) as caught:
        await house.validate(tokens.access_token)
    assert caught.value.reason == "TOKEN_EXPIRED"


async def test_a_token_is_good_for_nothing_once_its_session_has_ended(house: House) -> None:
    """AUTHN-4: the session is read each time."""
    tokens, ann = await house.person("ann@example.com")
    other = await house.login("ann@example.com")
    answer = await house.call(
        "AuthenticationService.Logout", LogoutRequest(), LogoutResponse, token=tokens.access_token
    )
    assert answer.ended_sessions == 1
    with pytest.raises(UnauthenticatedError) as caught:
        await house.validate(tokens.access_token)
    assert caught.value.reason == "SESSION_ENDED"
    assert (await house.validate(other.access_token)).id == ann.id


async def test_logging_out_everywhere_ends_every_session_once(house: House) -> None:
    """AUTHN-4."""
    _, ann = await house.person("ann@example.com")
    others = [await house.login("ann@example.com") for _ in range(3)]
    request = LogoutRequest(everywhere=True)
    answer = await house.call("AuthenticationService.Logout", request, LogoutResponse, caller=ann)
    again = await house.call("AuthenticationService.Logout", request, LogoutResponse, caller=ann)
    assert (answer.ended_sessions, again.ended_sessions) == (4, 0)
    for tokens in others:
        with pytest.raises(UnauthenticatedError):
            await house.validate(tokens.access_token)
    (event,) = await house.events("auth.logout")
    assert (event.data["ended_sessions"], event.actor) == (4, ann.id)


async def test_a_user_who_is_shut_out_is_out_with_every_token(house: House) -> None:
    """AUTHN-4: within 5 s, by the event; sign-in is refused as for a wrong password."""
    tokens, ann = await house.person("ann@example.com")
    administrator = Principal("user_admin", "user", "default")
    await house.settled()
    request = DeactivateUserRequest(user=ann.id)
    await house.call(
        "UserService.DeactivateUser",
        request,
        User,
        caller=service_principal("tests", "default", administrator.id),
    )
    await house.settled()
    with pytest.raises(UnauthenticatedError) as caught:
        await house.validate(tokens.access_token)
    assert caught.value.reason == "SESSION_ENDED"
    with pytest.raises(UnauthenticatedError) as caught:
        await house.login("ann@example.com")
    assert caught.value.reason == "CREDENTIALS_INVALID"


async def test_keys_rotate_and_no_token_is_refused(house: House) -> None:
    """AUTHN-3: overlap; the new key signs, the old one verifies until its last token has expired."""
    tokens, ann = await house.person("ann@example.com")
    (before,) = (await _jwks(house)).keys
    await rotate_signing_key(house.runtime("authentication"))
    house.clock.advance(31)  # another process notices within 30 s
    fresh = await house.login("ann@example.com")
    keys = [key.kid for key in (await _jwks(house)).keys]
    assert keys[1:] == [before.kid]
    assert _open(fresh.access_token)[0]["kid"] == keys[0] != before.kid
    assert await house.validate(tokens.access_token) == ann
    assert (await house.validate(fresh.access_token)).id == ann.id
    house.clock.advance(900 + 70)
    assert [key.kid for key in (await _jwks(house)).keys] == keys[:1]
    with pytest.raises(UnauthenticatedError):
        await house.validate(tokens.access_token)


async def test_a_token_of_a_key_that_another_process_made_is_good_at_once(house: House) -> None:
    """AUTHN-3: an unknown kid is looked up once more."""
    from taskman_server.services.authentication.store import AuthenticationStore
    from taskman_server.services.authentication.tokens import KeyRing

    _, ann = await house.person("ann@example.com")
    runtime = house.runtime("authentication")
    elsewhere = KeyRing(runtime, AuthenticationStore(runtime.db))
    house.clock.advance(2)
    await elsewhere.rotate()
    token = elsewhere.sign(ann.id, ann.organization, ann.session)
    assert await house.validate(token) == ann


async def test_the_key_survives_a_restart(house: House) -> None:
    """AUTHN-3: made once."""
    before = await house.rows("authentication", "signing_keys")
    start = house.services["authentication"].parts.start
    assert start is not None
    await start()
    assert await house.rows("authentication", "signing_keys") == before
