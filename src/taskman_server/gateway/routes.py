"""From verb and path to an RPC: a tree that is made once from the contract."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

from taskman_sdk.contract import ContractError, Method

__all__ = ["Match", "MethodNotAllowed", "Router"]

_PARAMETER: Final = "*"


@dataclass(frozen=True, slots=True)
class Match:
    """A route that fits.

    Attributes:
        method: the RPC.
        values: the values of its path parameters, in order.
    """

    method: Method
    values: tuple[str, ...]


class MethodNotAllowed(Exception):
    """The path is known, but not with this verb.

    Attributes:
        allowed: the verbs it takes.
    """

    def __init__(self, allowed: Iterable[str]) -> None:
        super().__init__()
        self.allowed = tuple(sorted(allowed))


@dataclass(slots=True)
class _Node:
    children: dict[str, _Node] = field(default_factory=dict)
    methods: dict[str, Method] = field(default_factory=dict)


class Router:
    """All REST routes. A literal segment wins over a parameter, a custom method (`…:assign`) over both."""

    def __init__(self, methods: Iterable[Method]) -> None:
        """Raises:
        ContractError: two RPCs have one route.
        """
        self._root = _Node()
        for method in methods:
            if method.route is None:
                continue
            node = self._root
            for segment in method.route.template.strip("/").split("/"):
                if segment.startswith("{"):
                    _, _, custom = segment.partition("}:")
                    segment = f"{_PARAMETER}:{custom}" if custom else _PARAMETER
                node = node.children.setdefault(segment, _Node())
            taken = node.methods.setdefault(method.route.verb, method)
            if taken is not method:
                raise ContractError(
                    f"{taken.operation_id} and {method.operation_id} both have {method.route.verb} "
                    f"{method.route.template}"
                )

    def match(self, verb: str, path: str) -> Match | None:
        """The route of a request; None where nothing is at the path.

        Args:
            verb: the HTTP method.
            path: the path as sent, percent-encoded.

        Raises:
            MethodNotAllowed: there is something, but not with this verb.
        """
        allowed: set[str] = set()
        found = self._walk(self._root, path.strip("/").split("/"), 0, (), verb, allowed)
        if found is None and allowed:
            raise MethodNotAllowed(allowed)
        return found

    def _walk(
        self, node: _Node, segments: list[str], index: int, values: tuple[str, ...], verb: str, allowed: set[str]
    ) -> Match | None:
        if index == len(segments):
            method = node.methods.get(verb)
            if method is None:
                allowed.update(node.methods)
                return None
            return Match(method, values)
        segment = segments[index]
        child = node.children.get(segment)
        if child is not None:
            found = self._walk(child, segments, index + 1, values, verb, allowed)
            if found is not None:
                return found
        name, colon, custom = segment.rpartition(":")
        if name and colon and (child := node.children.get(f"{_PARAMETER}:{custom}")) is not None:
            return self._walk(child, segments, index + 1, (*values, unquote(name)), verb, allowed)
        child = node.children.get(_PARAMETER)
        if child is None or not segment:
            return None
        return self._walk(child, segments, index + 1, (*values, unquote(segment)), verb, allowed)
