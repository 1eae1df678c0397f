"""Update masks."""

from __future__ import annotations

import pytest

from taskman_sdk.codec import FieldMask
from taskman_sdk.errors import InvalidArgumentError
from taskman_sdk.proto.taskman.user.v1.user_pb import User
from taskman_server.kit.masks import changed_paths

MUTABLE = ("display_name", "locale", "time_zone")


@pytest.mark.parametrize(
    ("paths", "changed"),
    [
        (None, ["display_name", "time_zone"]),
        ([], ["display_name", "time_zone"]),
        (["*"], list(MUTABLE)),
        (["time_zone", "display_name", "time_zone"], ["display_name", "time_zone"]),
        (["locale"], ["locale"]),
    ],
)
def test_a_mask_names_the_fields_and_none_means_those_that_are_set(paths: list[str] | None, changed: list[str]) -> None:
    """USER-1, AIP-134."""
    user = User(id="user_1", email="a@b.de", display_name="Ann", time_zone="UTC")
    mask = None if paths is None else FieldMask(paths=paths)
    assert changed_paths(user, mask, MUTABLE, "user") == changed


@pytest.mark.parametrize("path", ["email", "id", "nothing", "display_name.x", "*"])
def test_a_path_that_cannot_be_changed_is_refused_with_those_that_can(path: str) -> None:
    """USER-1, AIP-161."""
    with pytest.raises(InvalidArgumentError) as caught:
        changed_paths(User(), FieldMask(paths=["display_name", path]), MUTABLE, "user")
    assert caught.value.reason == "UPDATE_MASK_INVALID"
    assert "display_name, locale, time_zone" in str(caught.value)
