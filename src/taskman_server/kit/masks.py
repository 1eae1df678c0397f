"""Update masks: which fields an update changes (AIP-134, AIP-161)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from taskman_sdk import codec
from taskman_sdk.errors import FieldViolation, InvalidArgumentError

__all__ = ["changed_paths"]


def changed_paths(
    message: codec.Message[Any], mask: codec.FieldMask | None, mutable: Collection[str], resource_name: str
) -> list[str]:
    """The fields that an update names, each once, in the order of `mutable`.

    Args:
        message: the resource with its new values.
        mask: what the caller named. None or empty: the mutable fields that are set; `*`: all mutable ones.
        mutable: the fields that may be changed.
        resource_name: the resource's field in the request, for example `task`.

    Raises:
        InvalidArgumentError: a path names no field, or one that cannot be changed.
    """
    paths = list(mask.paths) if mask is not None else []
    if not paths:
        return [name for name in mutable if message.has_field(name)]
    if "*" in paths:
        if len(paths) > 1:
            raise _wrong("`*` stands for all fields: name it alone", mutable, "*", resource_name)
        return list(mutable)
    for path in paths:
        if path in mutable:
            continue
        known = any(field.name == path for field in message.desc().fields)
        problem = f"{path!r} cannot be changed" if known else f"there is no field {path!r}"
        raise _wrong(problem, mutable, path, resource_name)
    named = set(paths)
    return [name for name in mutable if name in named]


def _wrong(problem: str, mutable: Collection[str], path: str, resource_name: str) -> InvalidArgumentError:
    legal = ", ".join(mutable)
    return InvalidArgumentError(
        f"update_mask: {problem}. Of a {resource_name}, these can be changed: {legal}.",
        reason="UPDATE_MASK_INVALID",
        metadata={"path": path, "mutable": legal},
        field_violations=[FieldViolation("update_mask", f"{problem}; legal are {legal}", "update_mask")],
    )
