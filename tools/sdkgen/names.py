"""How RPCs are called in the SDK: by rule, from the first segment of the route and the words of the RPC's name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import groupby
from keyword import iskeyword

from tools.sdkgen.image import GenerationError, Method

# First segments that are no resource's name.
ALIASES = {".well-known": "auth"}
_WORDS = re.compile(r"[A-Z][a-z0-9]*")


def _segments(method: Method) -> list[str]:
    path = method.template.removeprefix("/v1").split(":")[0]
    return [part for part in path.split("/") if part and "{" not in part]


def resource_of(method: Method) -> str:
    """The attribute of the client: `/v1/tasks/{task}` → `tasks`."""
    first = _segments(method)[0]
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", ALIASES.get(first, first)).lower()


def singular(plural: str) -> str:
    """`policies` → `policy`, `tasks` → `task`."""
    if plural.endswith("ies"):
        return plural[:-3] + "y"
    return plural.removesuffix("s")


def _noun(methods: list[Method]) -> str:
    """The word that names the resource in its RPCs: of the first segment, or of the second where it is a mere area."""
    candidates = [re.sub(r"[^a-z]", "", part.lower()) for part in _segments(methods[0])[:2]]
    for candidate in candidates:
        if any(singular(candidate) in method.name.lower()[1:] for method in methods):
            return singular(candidate)
    return ""


def verb(method: Method, noun: str) -> str:
    """`CreateTask` of `task` → `create`, `AddProjectMember` of `project` → `add_member`."""
    first, *rest = _WORDS.findall(method.name)
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    words = [first, *(word for word in rest if word.lower() not in (noun, plural))]
    name = "_".join(words).lower()
    return f"{name}_" if iskeyword(name) else name


def resources(methods: tuple[Method, ...]) -> Mapping[str, Mapping[str, Method]]:
    """Every resource with its verbs.

    Raises:
        GenerationError: two RPCs of a resource come to one name.
    """
    ordered = sorted(methods, key=resource_of)
    found: dict[str, dict[str, Method]] = {}
    for resource, group in groupby(ordered, key=resource_of):
        members = list(group)
        noun = _noun(members)
        verbs = found.setdefault(resource, {})
        for method in members:
            name = verb(method, noun)
            if name in verbs:
                raise GenerationError(f"{method.name} and {verbs[name].name} both become client.{resource}.{name}")
            verbs[name] = method
    return found
