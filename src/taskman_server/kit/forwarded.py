"""Who calls through proxies: the same rule for HTTP and for gRPC (GATE-3)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import TypeAlias

__all__ = ["HEADER", "Networks", "client_address", "networks"]

HEADER = "x-forwarded-for"
Networks: TypeAlias = Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]


def networks(names: Iterable[str]) -> Networks:
    """The networks of `trusted_proxies`."""
    return [ipaddress.ip_network(name) for name in names]


def client_address(address: str, forwarded: str, trusted: Networks) -> str:
    """The client's address.

    Args:
        address: whose connection it is.
        forwarded: what `X-Forwarded-For` says; a client can write there what it likes.
        trusted: the networks of our proxies.
    """
    if not trusted or not forwarded:
        return address
    # From the right: each hop that is ours vouches for the one before it.
    for hop in [*reversed([part.strip() for part in forwarded.split(",")]), ""]:
        try:
            if not any(ipaddress.ip_address(address) in network for network in trusted):
                return address
            ipaddress.ip_address(hop)
        except ValueError:
            return address
        address = hop
    return address
