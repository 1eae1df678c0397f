"""Access tokens: JWTs after RFC 9068, signed with Ed25519 by a key of this deployment (AUTHN-1, AUTHN-3).

A token names its key by `kid`, and that is looked up among our own keys, nowhere else: headers that carry or point to
a key (`jwk`, `jku`, `x5u`, `x5c`) are refused with every other header that we do not write ourselves (RFC 8725).
"""

from __future__ import annotations

import binascii
import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from cachebox import LRUCache
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey
from joserfc.util import urlsafe_b64decode

from taskman_sdk.errors import UnauthenticatedError
from taskman_sdk.proto.taskman.authentication.v1.authentication_pb import Jwk
from taskman_server.kit.ids import new_id
from taskman_server.kit.rpc import Runtime
from taskman_server.services.authentication.rules import CLOCK_LEEWAY
from taskman_server.services.authentication.store import AuthenticationStore

__all__ = ["AUDIENCE", "TOKEN_TYPE", "Claims", "KeyRing", "read_token"]

AUDIENCE: Final = "taskman"
ALGORITHM: Final = "EdDSA"
TOKEN_TYPE: Final = "at+jwt"
HEADERS: Final = frozenset({"alg", "kid", "typ"})
CACHED: Final = 20_000
RELOAD: Final = timedelta(seconds=1)
_TURN: Final = "signing keys"  # of two processes that make one at once the second sees the first's
# Other processes may sign with a key for so long after it was replaced: they look for a new one that often.
OVERLAP: Final = timedelta(seconds=60)
# RFC 9864 calls this curve `Ed25519` instead; libraries of our clients know the name of RFC 8037, and so do we.
warnings.filterwarnings("ignore", message="EdDSA is deprecated", module="joserfc")


@dataclass(frozen=True, slots=True)
class Claims:
    """What a good token says.

    Attributes:
        user: `sub`.
        organization: `org`.
        session: `sid`.
        kid: the key that signed it.
        expires: `exp`, seconds since 1970.
        not_before: the later one of `iat` and `nbf`.
    """

    user: str
    organization: str
    session: str
    kid: str
    expires: int
    not_before: int


def _refused() -> UnauthenticatedError:
    # One text for whatever is wrong: who forges tokens learns nothing.
    return UnauthenticatedError("The access token is not valid. Sign in again.", reason="TOKEN_INVALID")


def _kid(token: str) -> str:
    """The key that a token names, if its header is one that we write."""
    try:
        header = json.loads(urlsafe_b64decode(token.partition(".")[0].encode("ascii")))
    except (ValueError, binascii.Error, RecursionError):
        raise _refused() from None
    if not isinstance(header, dict) or set(header) != HEADERS:
        raise _refused()
    kid = header["kid"]
    if header["alg"] != ALGORITHM or header["typ"] != TOKEN_TYPE or not isinstance(kid, str):
        raise _refused()
    return kid


def read_token(token: str, keys: Mapping[str, OKPKey], issuer: str) -> Claims:
    """Verifies signature, issuer, audience and shape of a token; not its times.

    Raises:
        UnauthenticatedError: it is not one of ours.
    """
    kid = _kid(token)
    key = keys.get(kid)
    if key is None:
        raise _refused()
    try:
        claims: Mapping[str, Any] = jwt.decode(token, key, algorithms=[ALGORITHM]).claims
    except (JoseError, ValueError, TypeError, RecursionError):
        raise _refused() from None
    texts = [claims.get(name) for name in ("sub", "org", "sid", "jti")]
    expires, issued, not_before = claims.get("exp"), claims.get("iat"), claims.get("nbf", 0)
    if claims.get("iss") != issuer or claims.get("aud") != AUDIENCE:
        raise _refused()
    if not all(isinstance(text, str) and text for text in texts):
        raise _refused()
    # `True` is an int to isinstance.
    if type(expires) is not int or type(issued) is not int or type(not_before) is not int:
        raise _refused()
    user, organization, session, _ = map(str, texts)
    return Claims(user, organization, session, kid, expires=expires, not_before=max(issued, not_before))


@dataclass(frozen=True, slots=True)
class _Key:
    kid: str
    key: OKPKey
    retires: datetime | None


class KeyRing:
    """The signing keys of the deployment, kept in the service's database, and the tokens made with them."""

    def __init__(self, runtime: Runtime, store: AuthenticationStore) -> None:
        self._runtime = runtime
        self._store = store
        self._keys: Mapping[str, _Key] = {}
        self._loaded = datetime.min.replace(tzinfo=runtime.clock.now().tzinfo)
        self._verified: LRUCache[bytes, Claims] = LRUCache(CACHED)

    async def start(self) -> None:
        """Makes the first key where there is none."""
        now = self._runtime.clock.now()
        if not await self._store.signing_keys(now):
            async with self._runtime.db.transaction() as tx:
                await tx.take_turn(_TURN)
                if not await self._store.signing_keys_in(tx, now):
                    await self._store.add_signing_key(tx, *_new_key(), now, retire_others=now)
        await self._load(now)

    async def rotate(self) -> str:
        """Signs with a new key from now on; tokens of the old ones stay good until they expire. Answers its `kid`."""
        now = self._runtime.clock.now()
        life = timedelta(seconds=self._runtime.settings.access_token_seconds + CLOCK_LEEWAY)
        kid, private_key = _new_key()
        async with self._runtime.db.transaction() as tx:
            await tx.take_turn(_TURN)
            await self._store.add_signing_key(tx, kid, private_key, now, retire_others=now + life + OVERLAP)
        await self._load(now)
        return kid

    async def ready(self) -> None:
        """Looks now and then which keys there are. Before `sign`, and not inside a transaction: it reads by itself, and
        whoever waits for a second connection while holding one may wait for themselves."""
        now = self._runtime.clock.now()
        if now - self._loaded > OVERLAP / 2:
            await self._load(now)

    def sign(self, user: str, organization: str, session: str) -> str:
        """An access token for a session, good for the time that the settings say."""
        now = self._runtime.clock.now()
        signing = next(iter(self._keys.values()))
        issued = int(now.timestamp())
        claims = {
            "iss": self._runtime.settings.issuer,
            "aud": AUDIENCE,
            "sub": user,
            "org": organization,
            "sid": session,
            "jti": new_id("token"),
            "iat": issued,
            "exp": issued + self._runtime.settings.access_token_seconds,
        }
        header = {"alg": ALGORITHM, "kid": signing.kid, "typ": TOKEN_TYPE}
        return jwt.encode(header, claims, signing.key, algorithms=[ALGORITHM])

    async def verify(self, token: str) -> Claims:
        """What a token says, once its signature, claims and times are good. Its session is the caller's to check.

        Raises:
            UnauthenticatedError: it is not.
        """
        await self.ready()  # a key that was retired elsewhere is good no longer here either
        now = self._runtime.clock.now()
        mark = hashlib.blake2b(token.encode("utf-8", "surrogatepass"), digest_size=20).digest()
        claims: Claims | None = self._verified.get(mark)
        if claims is None:
            if _kid(token) not in self._keys and now - self._loaded > RELOAD:
                await self._load(now)  # another process may have made it a moment ago
            keys = {kid: key.key for kid, key in self._keys.items()}
            claims = read_token(token, keys, self._runtime.settings.issuer)
            self._verified[mark] = claims
        self._check(mark, claims, now)
        return claims

    async def known(self, marks: Sequence[bytes]) -> list[Claims | None]:
        """The same for tokens that were verified here before, by their digests; None for one that is not known or not
        good."""
        await self.ready()
        now = self._runtime.clock.now()
        found: list[Claims | None] = []
        for mark in marks:
            claims: Claims | None = self._verified.get(mark)
            if claims is not None:
                try:
                    self._check(mark, claims, now)
                except UnauthenticatedError:
                    claims = None
            found.append(claims)
        return found

    def _check(self, mark: bytes, claims: Claims, now: datetime) -> None:
        key = self._keys.get(claims.kid)
        if key is None or (key.retires is not None and key.retires <= now):
            raise _refused()
        seconds = now.timestamp()
        if claims.expires + CLOCK_LEEWAY <= seconds:
            self._verified.pop(mark, None)
            raise UnauthenticatedError(
                "The access token has expired. Trade your refresh token for a new one: POST /v1/auth/refresh.",
                reason="TOKEN_EXPIRED",
            )
        if claims.not_before - CLOCK_LEEWAY > seconds:
            raise _refused()

    async def public_keys(self) -> Sequence[Jwk]:
        """The keys that verify, the signing one first (RFC 7517, RFC 8037)."""
        await self._load(self._runtime.clock.now())
        return [
            Jwk(kty="OKP", crv="Ed25519", x=_public(key.key), kid=key.kid, alg=ALGORITHM, use="sig")
            for key in self._keys.values()
        ]

    async def _load(self, now: datetime) -> None:
        rows = await self._store.signing_keys(now)
        known = self._keys
        self._keys = {
            row.kid: _Key(
                row.kid,
                known[row.kid].key if row.kid in known else OKPKey.import_key(json.loads(row.private_key)),
                row.retire_time,
            )
            for row in rows
        }
        self._loaded = now


def _new_key() -> tuple[str, str]:
    key = OKPKey.generate_key("Ed25519")
    return key.thumbprint(), json.dumps(key.as_dict(private=True))


def _public(key: OKPKey) -> str:
    return str(key.as_dict(private=False)["x"])
