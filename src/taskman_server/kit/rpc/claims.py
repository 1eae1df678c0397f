"""What a process of ours says beside a call between services, and how much of it is believed.

A call between services carries who calls (`taskman-as`), in which organization, on whose behalf, and where the request
came from. None of it is believed from a client. Between services the certificate says who speaks (`kit.tls`): a service
speaks for itself alone, and only the gateway passes on calls of clients, which have their token and no `taskman-as`.

Without certificates (`mtls=off`) `taskman-as` is believed as it stands: then the mesh must see to it that nobody but
our processes reaches the port, and that each is what it says it is (Istio: `PeerAuthentication` strict, and an
`AuthorizationPolicy` for each port).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from taskman_sdk.contract import CALLERS
from taskman_sdk.errors import PermissionDeniedError, UnauthenticatedError
from taskman_server.kit.rpc.channel import CallOptions, Origin

__all__ = ["METADATA_LIMITS", "TAKEN", "claims_of", "on_the_wire", "read", "understand"]

TAKEN: Final = frozenset({"authorization", "idempotency-key", "x-request-id", "traceparent"})
"""What of a client's metadata counts; claims of identity other than a token do not (GATE-2)."""
METADATA_LIMITS: Final = (("grpc.max_metadata_size", 128 << 10), ("grpc.absolute_max_metadata_size", 256 << 10))
"""gRPC's options of both ends between our processes. More than the edge lets in (HTTP heads of 64 KiB), so that what is
too long is refused where it is judged, in our words, and not on the way in gRPC's."""
GATEWAY: Final = "gateway"
_AS: Final = "taskman-as"
_ORGANIZATION: Final = "taskman-organization"
_ACTOR: Final = "taskman-actor"
_ADDRESS: Final = "taskman-origin-ip"
_AGENT: Final = "taskman-origin-agent"
_BELIEVED: Final = TAKEN | {_AS, _ORGANIZATION, _ACTOR, _ADDRESS, _AGENT}
_PLAIN: Final = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")  # what gRPC carries as text, unchanged


def claims_of(options: CallOptions) -> dict[str, str]:
    """The metadata of a call to another service."""
    found = dict(options.metadata)
    caller = options.caller
    if caller is not None:
        assert caller.type == "service", f"{caller.id} cannot vouch for itself over the network: it needs a token"
        found[_AS] = caller.id.removeprefix("service:")
        if caller.organization:
            found[_ORGANIZATION] = caller.organization
        if caller.actor:
            found[_ACTOR] = caller.actor
    if options.origin.ip_address:
        found[_ADDRESS] = options.origin.ip_address
    if options.origin.user_agent:
        found[_AGENT] = options.origin.user_agent
    return found


def on_the_wire(metadata: Mapping[str, str]) -> tuple[tuple[str, str | bytes], ...]:
    """Metadata for gRPC: what is not plain ASCII goes as `<key>-bin`, in UTF-8."""
    return tuple(
        (key, value) if _PLAIN.fullmatch(value) else (f"{key}-bin", value.encode("utf-8", "surrogatepass"))
        for key, value in metadata.items()
    )


def read(pairs: Iterable[tuple[str, str | bytes]]) -> dict[str, str]:
    """The metadata that another service sent; what does not count is left out."""
    found: dict[str, str] = {}
    for key, value in pairs:
        if isinstance(value, bytes):
            key, value = key.removesuffix("-bin"), value.decode("utf-8", "replace")
        if key in _BELIEVED:
            found[key] = value
    return found


def understand(sent: Mapping[str, str], timeout: float | None, peer: str | None) -> CallOptions:
    """What a call between services is, once it is clear who sent it.

    Args:
        sent: its metadata, as `read` or a batch has it.
        timeout: seconds that its caller still waits.
        peer: the service of the certificate, empty for one of no service of ours; None where a mesh checks that.

    Raises:
        UnauthenticatedError: the certificate is nobody's whom we know.
        PermissionDeniedError: a service speaks for another one, or passes on a call without being the gateway.
    """
    from taskman_server.kit.rpc.call import service_principal

    metadata = {key: value for key, value in sent.items() if key in TAKEN}
    origin = Origin(sent.get(_ADDRESS, ""), sent.get(_AGENT, ""))
    service = sent.get(_AS, "")
    if peer == "" or (service and service not in CALLERS):
        raise UnauthenticatedError(
            f"This port is for {', '.join(CALLERS)}; {service or 'the certificate of this connection'} is none of "
            "them. It needs one of the URI SANs spiffe://taskman/<service>.",
            reason="PEER_UNKNOWN",
        )
    if not service:
        if peer is not None and peer != GATEWAY:
            raise PermissionDeniedError(
                f"The service {peer!r} passes on no calls of clients; it calls as itself ({_AS}).",
                reason="PEER_FORWARDS",
                metadata={"service": peer},
            )
        return CallOptions(metadata, timeout, None, origin)
    if peer is not None and service != peer:
        raise PermissionDeniedError(
            f"The certificate is that of {peer!r}, who cannot call as {service!r}.",
            reason="PEER_MISMATCH",
            metadata={"service": peer},
        )
    caller = service_principal(service, sent.get(_ORGANIZATION, ""), sent.get(_ACTOR, ""))
    return CallOptions(metadata, timeout, caller, origin)
