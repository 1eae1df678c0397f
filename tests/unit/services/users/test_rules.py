"""Decisions of the Users service."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskman_sdk.errors import FailedPreconditionError, InvalidArgumentError
from taskman_server.services.users import rules


@given(st.text(max_size=60))
def test_a_kept_name_is_one_clean_line(name: str) -> None:
    """USER-1: no control characters, no newline for a mail's header; cleaning twice changes nothing."""
    kept = rules.clean_name(name)
    assert kept == kept.strip()
    assert all(character.isprintable() for character in kept if not ord(character) >= 0xE000)
    assert rules.clean_name(kept) == kept


def test_every_wrong_field_is_named_at_once() -> None:
    """USER-1: the caller sees all that is wrong."""
    with pytest.raises(InvalidArgumentError) as caught:
        rules.checked_values({"display_name": " \u200b ", "time_zone": "Mars/Olympus", "locale": "en"})
    assert [each.field for each in caught.value.field_violations] == ["user.display_name", "user.time_zone"]


@pytest.mark.parametrize("zone", ["../../etc/passwd", "Europe", "/etc/passwd", "europe/berlin ", "Europe/Berlin\0"])
def test_a_time_zone_is_a_name_that_is_known_never_a_path(zone: str) -> None:
    """USER-5."""
    with pytest.raises(InvalidArgumentError):
        rules.checked_values({"time_zone": zone})


def test_known_zones_and_none_are_kept() -> None:
    """USER-5."""
    for zone in ("Europe/Berlin", "UTC", ""):
        assert rules.checked_values({"time_zone": zone}) == {"time_zone": zone}


def test_an_etag_changes_with_the_version_and_the_user() -> None:
    """USER-1, AIP-154."""
    assert len({rules.etag(user, version) for user in ("user_1", "user_2") for version in range(50)}) == 100


def test_nobody_shuts_themselves_out() -> None:
    """USER-1: somebody must be left to undo it."""
    with pytest.raises(FailedPreconditionError):
        rules.check_not_oneself("user_1", "user_1")
    rules.check_not_oneself("user_1", "user_2")
